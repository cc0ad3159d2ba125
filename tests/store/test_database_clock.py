"""PostgreSQL's clock decides about leases; a worker's machine may think what it likes."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from alignclip_store import database
from alignclip_store.database import reading, transaction
from alignclip_store.runs import heartbeat, reap


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
