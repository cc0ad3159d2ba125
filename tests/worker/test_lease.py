"""A run's hold on its job."""

import time
from contextlib import closing
from types import SimpleNamespace

import pytest
from sqlalchemy import text, update

from alignclip_store.database import database_now, transaction
from alignclip_store.errors import LeaseLost
from alignclip_store.jobs import request_cancel
from alignclip_store.runs import record_event
from alignclip_store.tables import Job
from tests.worker.conftest import WAIT_SECONDS
from worker import lease
from worker.lease import Lease
from worker.outcome import RunStopped

LEASE_SECONDS = 200.0  # longer than a busy machine holds a process up


def wait_until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def service(make_service):
    return make_service(lease_seconds=LEASE_SECONDS, heartbeat_seconds=0.1)


@pytest.fixture
def run(service, archive, claim_run):
    service.submit(archive, wakes=False)
    return claim_run()


@pytest.fixture
def let_time_pass(monkeypatch):
    """Moves the clock by which a lease is held."""
    real, passed = time.monotonic, []
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: real() + sum(passed)))
    return passed.append


def test_it_is_renewed_while_its_block_runs(service, run):
    first = service.job(run.claim.job_id).lease_until
    wait_until(lambda: service.job(run.claim.job_id).lease_until > first)
    assert run.stop_reason() is None


def test_it_is_renewed_no_more_after_its_end(service, run, let_time_pass):
    run.lease.end()
    last = service.job(run.claim.job_id).lease_until
    let_time_pass(LEASE_SECONDS)
    assert run.lease.is_lost
    assert service.job(run.claim.job_id).lease_until == last


def test_it_sees_a_cancel(service, run):
    with transaction(service.engine) as session:
        request_cancel(session, "owner", run.claim.job_id)
    wait_until(lambda: run.lease.wish == "cancelled")
    with pytest.raises(RunStopped):
        run.raise_if_stopped()


def test_it_is_lost_when_another_run_has_the_job(service, run):
    with transaction(service.engine) as session:
        session.execute(update(Job).values(fence=Job.fence + 1, lease_until=database_now(session)))
    wait_until(lambda: run.lease.is_lost)
    with pytest.raises(LeaseLost):
        run.record_event("info", "nobody reads this")
    assert [event.message for event in service.events(run.claim.job_id)][1:] == ["Validating files (run 1)."]


def test_it_is_lost_before_it_lapses_when_the_database_cannot_be_written(
    make_service, archive, claim_run, let_time_pass
):
    service = make_service(lease_seconds=LEASE_SECONDS, heartbeat_seconds=LEASE_SECONDS / 2)
    service.submit(archive, wakes=False)
    run = claim_run(service)
    lapses_at = service.job(run.claim.job_id).lease_until
    with closing(service.engine.raw_connection()) as other:
        other.driver_connection.execute("BEGIN IMMEDIATE")
        assert not run.lease.is_lost
        let_time_pass(LEASE_SECONDS / 2)
        assert run.lease.is_lost
        other.driver_connection.execute("ROLLBACK")
    assert lapses_at > database_now_of(service)


def test_a_write_is_tried_again_while_the_database_is_away_until_the_lease_is_lost(service, run, let_time_pass):
    num_tries = 0

    def change(session):
        nonlocal num_tries
        num_tries += 1
        if num_tries == 2:
            let_time_pass(LEASE_SECONDS)
        record_event(session, run.claim, "info", "nobody can write this")

    with transaction(service.engine) as session:
        session.execute(text("ALTER TABLE jobs RENAME TO away"))
    with pytest.raises(LeaseLost):
        run.write(change)
    assert num_tries == 2


def test_a_heartbeat_must_fit_twice_into_a_lease(service, run):
    with pytest.raises(ValueError, match="needs one every 2 s"):
        Lease(service.engine, run.claim, lease_seconds=4, heartbeat_seconds=3)


def database_now_of(service):
    with transaction(service.engine) as session:
        return database_now(session)
