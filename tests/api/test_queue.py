"""Places in the queue, and the queue as a whole."""

import time
from collections.abc import Callable

import pytest

from alignclip_store import runs


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
