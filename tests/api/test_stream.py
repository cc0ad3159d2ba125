"""A job as server-sent events."""

import json
import threading
from collections.abc import Iterator

import httpx2
import pytest

from alignclip_store import runs
from api.routes import stream


def messages(response: httpx2.Response) -> Iterator[tuple[str, str, dict]]:
    """(event, id, data) of each message, as a browser reads them."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and "data" in fields:
            yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":") and line:
            name, _, value = line.partition(": ")
            fields[name] = value


@pytest.fixture
def finished_job(service, create_job):
    """A job with three steps, an evaluation and an end."""
    job = create_job()
    claim = service.claim(job.id)
    service.write(runs.start_training, claim)
    for step in (1, 2, 3):
        service.write(runs.record_metrics, claim, [{"step": step, "kind": "train", "values": {"loss": 1.0}}])
    service.write(runs.record_metrics, claim, [{"step": 3, "kind": "evaluation", "values": {"bma": {}}}])
    service.write(runs.finish, claim, "failed", error={"code": "diverged", "message": "It diverged.", "param": None})
    return job


def read(http, job_id, **headers):
    with http.stream("GET", f"/v1/fine_tuning/jobs/{job_id}/stream", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(messages(response))


def test_a_finished_job_is_told_whole_and_the_stream_ends(http, finished_job):
    told = read(http, finished_job.id)
    assert [(data["kind"], data["step"]) for name, _, data in told if name == "metrics"] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("evaluation", 3),
    ]
    events = [data["message"] for name, _, data in told if name == "event"]
    assert events[0].startswith("Created")
    assert events[-1] == "It diverged."
    name, _, data = told[-1]
    assert (name, data["status"], data["id"]) == ("job", "failed", finished_job.id)


def test_a_stream_ends_when_its_key_is_revoked(service, create_job, monkeypatch):
    monkeypatch.setattr(stream, "PROVE_SECONDS", 0.2)
    job = create_job()
    made = service.http.post("/v1/api_keys", json={"name": "passing", "scopes": ["infer"]}).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    with httpx2.stream(
        "GET", f"{service.url}/v1/fine_tuning/jobs/{job.id}/stream", headers=headers, timeout=30, trust_env=False
    ) as response:
        told = messages(response)
        assert next(told)[0] == "event"
        assert service.http.delete(f"/v1/api_keys/{made['id']}").status_code == 200
        assert all(name in ("event", "job") for name, _, _ in told), "it ends, though the job has not ended"
    service.openai.fine_tuning.jobs.cancel(job.id)


def test_a_client_that_comes_back_gets_what_it_missed_and_nothing_twice(http, finished_job):
    told = read(http, finished_job.id)
    for number, (_, position, _) in enumerate(told[:-1]):
        rest = read(http, finished_job.id, **{"Last-Event-ID": position})
        assert [data for _, _, data in rest] == [data for _, _, data in told[number + 1 :]]
    event_id = next(data["id"] for name, _, data in told if name == "event")  # an event's own id will do too
    rest = read(http, finished_job.id, **{"Last-Event-ID": event_id})
    assert event_id not in [data["id"] for _, _, data in rest]


def test_what_happens_is_told_while_it_happens(service, http, create_job):
    job = create_job()
    claim = service.claim(job.id)
    heard = threading.Event()
    told = []

    def listen():
        with http.stream("GET", f"/v1/fine_tuning/jobs/{job.id}/stream") as response:
            for message in messages(response):
                told.append(message)
                if message[2].get("step") == 1:
                    heard.set()

    listener = threading.Thread(target=listen)
    listener.start()
    service.write(runs.start_training, claim)
    service.write(runs.record_metrics, claim, [{"step": 1, "kind": "train", "values": {"loss": 1.0}}])
    assert heard.wait(60)
    assert listener.is_alive(), "a running job's stream goes on"
    service.write(runs.record_metrics, claim, [{"step": 1, "kind": "evaluation", "values": {"bma": {}}}])
    service.write(runs.finish, claim, "cancelled")
    listener.join(60)
    assert not listener.is_alive()
    assert ("evaluation", 1) in [(data.get("kind"), data.get("step")) for _, _, data in told]
    statuses = [data["status"] for name, _, data in told if name == "job"]
    assert statuses[-1] == "cancelled"


def test_a_stream_that_cannot_be_is_refused_before_it_begins(http, finished_job):
    url = f"/v1/fine_tuning/jobs/{finished_job.id}/stream"
    assert http.get("/v1/fine_tuning/jobs/ftjob-none/stream").status_code == 404
    assert http.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 401
    answer = http.get(url, headers={"Last-Event-ID": "yesterday"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Last-Event-ID")
