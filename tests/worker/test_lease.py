"""A run's hold on its job."""

import time
from contextlib import closing

import pytest
from sqlalchemy import text, update

from alignclip_store.database import database_now, transaction
from alignclip_store.errors import LeaseLost
from alignclip_store.jobs import request_cancel
from alignclip_store.tables import Job
from worker.lease import Lease
from worker.outcome import RunStopped


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def service(make_service):
    return make_service(lease_seconds=1.0, heartbeat_seconds=0.1)


@pytest.fixture
def run(service, archive, claim_run):
    service.submit(archive, wakes=False)
    return claim_run()


def test_it_is_renewed_while_its_block_runs(service, run):
    first = service.job(run.claim.job_id).lease_until
    wait_until(lambda: service.job(run.claim.job_id).lease_until > first)
    assert run.stop_reason() is None


def test_it_is_renewed_no_more_after_its_end(service, run):
    run.lease.end()
    last = service.job(run.claim.job_id).lease_until
    wait_until(lambda: run.lease.is_lost)
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


def test_it_is_lost_before_it_lapses_when_the_database_cannot_be_written(service, run):
    with closing(service.engine.raw_connection()) as other:
        other.driver_connection.execute("BEGIN IMMEDIATE")
        wait_until(lambda: run.lease.is_lost)
        other.driver_connection.execute("ROLLBACK")
    assert service.job(run.claim.job_id).lease_until > database_now_of(service)


def test_a_write_is_tried_again_while_the_database_is_away_until_the_lease_is_lost(service, run):
    with transaction(service.engine) as session:
        session.execute(text("ALTER TABLE jobs RENAME TO away"))
    with pytest.raises(LeaseLost):
        run.record_event("info", "nobody can write this")


def test_a_heartbeat_must_fit_twice_into_a_lease(service, run):
    with pytest.raises(ValueError, match="needs one every 2 s"):
        Lease(service.engine, run.claim, lease_seconds=4, heartbeat_seconds=3)


def database_now_of(service):
    with transaction(service.engine) as session:
        return database_now(session)
