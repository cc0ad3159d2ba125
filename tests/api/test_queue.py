"""Places in the queue, and the queue as a whole."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from alignclip_store import runs
from alignclip_store.database import transaction
from alignclip_store.tables import Event, Worker
from alignclip_store.workers import forget_worker, record_life


@pytest.fixture(scope="module")
def lonely_service(start_service: Callable) -> object:
    """A service of this module's own: other tests leave waiting jobs behind."""
    return start_service()


@pytest.fixture
def submit(lonely_service, archive):
    file_id = lonely_service.upload(archive)

    def create(**fields: object):
        body = {"model": "tiny", "training_file": file_id, "extra_body": {"num_steps": 8, **fields}}
        return lonely_service.openai.fine_tuning.jobs.create(**body)

    yield create
    for job in lonely_service.openai.fine_tuning.jobs.list():
        if job.status in ("queued", "validating_files", "running"):
            lonely_service.openai.fine_tuning.jobs.cancel(job.id)


def read_queue(service):
    answer = service.http.get("/v1/queue")
    assert answer.status_code == 200
    return answer.json()


def test_waiting_jobs_have_places_by_priority_and_age(lonely_service, submit):
    first, second, urgent = submit(), submit(), submit(priority=5)
    queue = read_queue(lonely_service)
    assert [(job["id"], job["position"]) for job in queue["waiting"]] == [
        (urgent.id, 1),
        (first.id, 2),
        (second.id, 3),
    ]
    assert (queue["num_waiting"], queue["jobs"]["queued"]) == (3, 3)
    assert queue["workers"] == []
    assert queue["waiting"][0]["estimated_start"] is None, "nobody knows when, as long as no worker is known"
    assert lonely_service.openai.fine_tuning.jobs.retrieve(second.id).queue["position"] == 3
    listed = lonely_service.openai.fine_tuning.jobs.list(limit=3).data
    assert [job.queue["position"] for job in listed] == [1, 3, 2]


def test_a_worker_that_lives_and_leaves_a_job_waiting_is_named(lonely_service, submit):
    identity = runs.WorkerIdentity(name="mute@host/7", host="host", device="cpu")
    gpus = [{"index": 0, "name": "NVIDIA Test", "used_bytes": 2**20, "total_bytes": 2**34}]
    lonely_service.write(record_life, identity, gpus=gpus, answered=True)
    job = submit()
    later = datetime.now(UTC) - timedelta(minutes=10)
    (worker,) = read_queue(lonely_service)["workers"]
    assert (worker["worker"], worker["status"], worker["gpus"]) == ("mute@host", "idle", gpus)
    with transaction(lonely_service.engine) as session:  # ten minutes pass, in which only its process gives signs
        session.execute(update(Event).where(Event.job_id == job.id).values(created_at=later))
        session.execute(update(Worker).values(answered_at=later - timedelta(minutes=1)))
    (worker,) = read_queue(lonely_service)["workers"]
    assert worker["status"] == "silent"
    assert worker["last_answer"] < worker["last_seen"]
    ready = lonely_service.http.get("/readyz").json()
    assert (ready["status"], ready["silent_workers"]) == ("degraded", 1)
    metrics = lonely_service.http.get("/metrics").text
    assert 'alignclip_workers{status="silent"} 1.0' in metrics
    assert 'alignclip_gpu_memory_used_bytes{gpu="0",host="host"} 1.048576e+06' in metrics
    lonely_service.write(forget_worker, "mute@host/7")
    assert "gpu_memory" not in lonely_service.http.get("/metrics").text, "no GPU, no number"


def test_starts_are_estimated_from_what_the_workers_have_before_them(lonely_service, submit):
    running = submit()
    claim = lonely_service.claim(running.id)
    lonely_service.write(runs.start_training, claim)
    first, second = submit(), submit()
    queue = read_queue(lonely_service)
    (worker,) = queue["workers"]
    assert (worker["status"], worker["job_id"], worker["host"], worker["device"]) == ("busy", running.id, "host", "cpu")
    starts = [job["estimated_start"] for job in queue["waiting"]]
    assert [job["id"] for job in queue["waiting"]] == [first.id, second.id]
    assert time.time() < starts[0] < starts[1] < queue["next_start"]
    assert lonely_service.openai.fine_tuning.jobs.retrieve(running.id).queue is None
    lonely_service.write(runs.finish, claim, "cancelled")
    (worker,) = read_queue(lonely_service)["workers"]
    assert (worker["status"], worker["job_id"]) == ("idle", None)
    with transaction(lonely_service.engine) as session:
        session.execute(update(Worker).values(seen_at=datetime.now(UTC) - timedelta(minutes=2)))
    queue = read_queue(lonely_service)
    assert [worker["status"] for worker in queue["workers"]] == ["gone"]
    assert queue["waiting"][0]["estimated_start"] is None
