"""Pause, resume and retry through the official client."""

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from alignclip_store import runs


@pytest.fixture
def client(service):
    """The client as people make it: the strict one of the other tests knows no `paused`."""
    with OpenAI(base_url=f"{service.url}/v1", api_key=service.openai.api_key, max_retries=0) as client:
        yield client


def test_a_waiting_job_is_paused_and_resumed(client, create_job):
    job = create_job()
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.retrieve(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    client.fine_tuning.jobs.cancel(job.id)


def test_a_running_job_keeps_its_status_until_its_worker_has_stopped(service, client, create_job):
    job = create_job()
    claim = service.claim(job.id)
    service.write(runs.start_training, claim)
    wished = client.fine_tuning.jobs.pause(job.id)
    assert (wished.status, wished.pause_requested_at > 0) == ("running", True)
    service.write(runs.pause, claim)
    paused = client.fine_tuning.jobs.retrieve(job.id)
    assert (paused.status, paused.pause_requested_at) == ("paused", None)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"


def test_a_wrong_state_is_a_bad_request_that_names_it(client, create_job):
    job = create_job()
    with pytest.raises(BadRequestError, match="is queued; only a paused job can be resumed") as raised:
        client.fine_tuning.jobs.resume(job.id)
    assert raised.value.code == "illegal_transition"
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(BadRequestError, match="is cancelled"):
        client.fine_tuning.jobs.pause(job.id)
    with pytest.raises(NotFoundError):
        client.fine_tuning.jobs.pause("ftjob-none")


def test_a_cancelled_job_is_tried_again(client, http, create_job):
    job = create_job()
    assert http.post(f"/v1/fine_tuning/jobs/{job.id}/retry").status_code == 400
    client.fine_tuning.jobs.cancel(job.id)
    answer = http.post(f"/v1/fine_tuning/jobs/{job.id}/retry")
    assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job.id, "queued")
    assert answer.json()["finished_at"] is None
    client.fine_tuning.jobs.cancel(job.id)


def test_the_priority_of_a_job_is_bounded(client, create_job):
    job = create_job(extra_body={"num_steps": 8, "priority": 7})
    assert job.priority == 7
    client.fine_tuning.jobs.cancel(job.id)
    with pytest.raises(BadRequestError, match="priority"):
        create_job(extra_body={"num_steps": 8, "priority": 11})
