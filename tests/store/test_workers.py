"""The register of workers: who is busy, idle, silent or gone."""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Engine, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.runs import WorkerIdentity, claim_next, finish
from alignclip_store.settings import Settings
from alignclip_store.tables import Event, Job, Worker
from alignclip_store.workers import forget_gone_workers, forget_worker, list_workers, node_of, record_life

SETTINGS = Settings(wake_again_seconds=10, max_running_jobs=1)


def identity(name: str) -> WorkerIdentity:
    return WorkerIdentity(name=name, host="host", device="cpu")


def statuses(engine: Engine, settings: Settings = SETTINGS) -> dict[str, str]:
    with reading(engine) as session:
        return {worker.name: worker.status for worker in list_workers(session, settings)}


def test_a_claim_is_a_sign_of_life_and_a_lapsed_lease_is_silence(engine: Engine, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with transaction(engine) as session:
        claim = claim_next(session, identity("a@host/1"), 60)
        record_life(session, identity("b@host/2"))
        assert claim is not None
    assert statuses(engine) == {"a@host": "busy", "b@host": "idle"}
    with transaction(engine) as session:
        session.execute(update(Job).values(lease_until=database_now(session) - timedelta(seconds=1)))
    assert statuses(engine) == {"a@host": "silent", "b@host": "idle"}
    with transaction(engine) as session:
        session.execute(update(Job).values(lease_until=database_now(session) + timedelta(seconds=60)))
        finish(session, claim, "cancelled")
    assert statuses(engine) == {"a@host": "idle", "b@host": "idle"}
    with reading(engine) as session:
        assert [worker.job_id for worker in list_workers(session, SETTINGS)] == [None, None]
    assert job.id == claim.job_id


def test_an_idle_worker_is_silent_when_a_job_waits_long_that_it_could_claim(
    engine: Engine, new_job: Callable[..., Job]
) -> None:
    with transaction(engine) as session:
        record_life(session, identity("a@host/1"), answered=True)
        session.execute(update(Worker).values(answered_at=database_now(session) - timedelta(hours=1)))
    assert statuses(engine) == {"a@host": "idle"}, "nothing waits: it has nothing to answer"
    new_job()
    assert statuses(engine) == {"a@host": "idle"}, "it has not been woken often enough"
    with transaction(engine) as session:
        session.execute(update(Event).values(created_at=database_now(session) - timedelta(seconds=40)))
    assert statuses(engine) == {"a@host": "silent"}
    assert statuses(engine, Settings(wake_again_seconds=30)) == {"a@host": "idle"}
    with transaction(engine) as session:
        record_life(session, identity("a@host/1"), answered=True)
    assert statuses(engine) == {"a@host": "idle"}, "it answers again"


def test_a_job_that_nobody_may_claim_makes_nobody_silent(engine: Engine, new_job: Callable[..., Job]) -> None:
    new_job()
    with transaction(engine) as session:
        claim_next(session, identity("a@host/1"), 60)
    new_job()
    with transaction(engine) as session:
        record_life(session, identity("b@host/1"))
        past = database_now(session) - timedelta(hours=1)
        session.execute(update(Event).values(created_at=past))
        session.execute(update(Worker).values(answered_at=past - timedelta(hours=1)))
    assert statuses(engine) == {"a@host": "busy", "b@host": "idle"}, "max_running_jobs is 1"
    assert statuses(engine, Settings(wake_again_seconds=10)) == {"a@host": "busy", "b@host": "silent"}


def test_signs_of_life_keep_what_was_told_before_and_end_with_the_worker(engine: Engine) -> None:
    gpus = [{"index": 0, "name": "a", "used_bytes": 1, "total_bytes": 2}]
    with transaction(engine) as session:
        record_life(session, identity("a@host/1"), gpus=gpus)
        record_life(session, identity("b@host/1"))
        record_life(session, identity("a@host/2"))
        workers = list_workers(session, SETTINGS)
        assert [(worker.name, worker.gpus) for worker in workers] == [("a@host", gpus), ("b@host", [])]
        forget_worker(session, "b@host/1")
        session.execute(update(Worker).values(seen_at=database_now(session) - timedelta(minutes=2)))
    assert statuses(engine) == {"a@host": "gone"}
    with transaction(engine) as session:
        forget_gone_workers(session)
    assert statuses(engine) == {"a@host": "gone"}
    with transaction(engine) as session:
        session.execute(update(Worker).values(seen_at=database_now(session) - timedelta(days=2)))
        forget_gone_workers(session)
        assert session.query(Worker).count() == 0


def test_a_node_is_a_worker_without_its_process() -> None:
    assert node_of("worker@host/12") == node_of("worker@host") == "worker@host"
