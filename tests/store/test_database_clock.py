"""The database's clock decides about leases. Others may be wrong, and it may be itself for a while."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from alignclip_store import database
from alignclip_store.database import database_now, reading, transaction
from alignclip_store.runs import heartbeat, jobs_to_wake, reap
from alignclip_store.tables import Job


class _AnyTime(type):
    def __instancecheck__(cls, value):
        return isinstance(value, datetime)


class _Tomorrow(datetime, metaclass=_AnyTime):
    """The clock of a host that is a day ahead."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=1)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_lease_is_counted_by_the_databases_clock(engine, settings, new_job, claim, read_job, monkeypatch):
    monkeypatch.setattr(database, "datetime", _Tomorrow)
    job = new_job()
    held = claim(lease_seconds=60)
    with transaction(engine) as session:
        heartbeat(session, held, 60)
    with reading(engine) as session:
        now = session.scalar(select(func.clock_timestamp())).astimezone(UTC)
    assert read_job(job.id).lease_until <= now + timedelta(seconds=60)
    with transaction(engine) as session:
        assert reap(session, settings) == []


def test_a_lease_of_a_clock_that_was_ahead_holds_its_job_no_longer_than_any_other(
    engine, make_settings, new_job, claim, read_job
):
    settings = make_settings(lease_seconds=600)
    ahead, standing = new_job(), new_job()
    claim(lease_seconds=24 * 3600)
    claim(lease_seconds=300)
    before = read_job(standing.id).lease_until
    with transaction(engine) as session:
        assert reap(session, settings) == [], "a worker that lives keeps its job"
        longest = database_now(session) + timedelta(seconds=600)
    assert before < read_job(ahead.id).lease_until <= longest
    assert read_job(standing.id).lease_until == before


def test_a_job_that_was_woken_for_while_the_clock_was_ahead_is_woken_for_again(engine, make_settings, new_job):
    settings = make_settings(wake_again_seconds=500)
    job = new_job()
    with transaction(engine) as session:
        tomorrow = database_now(session) + timedelta(days=1)
        session.execute(update(Job).values(woken_at=tomorrow))
        assert jobs_to_wake(session, settings) == [job.id]
        assert jobs_to_wake(session, settings) == []
