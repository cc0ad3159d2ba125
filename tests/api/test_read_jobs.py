"""Reading and cancelling jobs through the official client; a worker's writes come from the store's own functions."""

import time

import pytest
from openai import BadRequestError, NotFoundError

from alignclip_core.config import FinetuneConfig
from alignclip_store import runs
from alignclip_store.tables import Job

JOBS = "/v1/fine_tuning/jobs"


def test_jobs_page_newest_first_over_three_pages(openai, create_job):
    made = [create_job(metadata={"test": "pages"}).id for _ in range(5)]
    first = openai.fine_tuning.jobs.list(limit=2, extra_query={"metadata[test]": "pages"})
    assert (len(first.data), first.has_more) == (2, True)
    assert [job.id for job in first] == made[::-1]


def test_jobs_are_filtered_by_metadata(openai, create_job):
    wanted = create_job(metadata={"test": "filter", "team": "", "k[]": 'a"b'})
    other = create_job(metadata={"test": "filter"})
    bare = create_job()
    assert found(openai, metadata={"test": "filter", "team": ""}) == [wanted.id]
    assert found(openai, metadata={"test": "filter"}) == [other.id, wanted.id]
    assert found(openai, metadata={"test": "nothing"}) == []
    assert found(openai, metadata={"k[]": 'a"b'}) == [wanted.id]
    without = [job.id for job in openai.fine_tuning.jobs.list(extra_query={"metadata": "null"}, limit=100)]
    assert bare.id in without
    assert not {wanted.id, other.id} & set(without)


def test_waiting_job_is_cancelled_at_once_and_again(openai, create_job):
    job = openai.fine_tuning.jobs.cancel(create_job().id)
    assert job.status == "cancelled"
    assert job.finished_at == job.cancel_requested_at
    assert openai.fine_tuning.jobs.cancel(job.id) == job


def test_cancel_of_a_running_job_answers_with_the_wish(service, openai, create_job):
    job = create_job()
    claim = service.claim(job.id)
    assert openai.fine_tuning.jobs.retrieve(job.id).status == "validating_files"
    service.write(runs.start_training, claim)
    wished = openai.fine_tuning.jobs.cancel(job.id)
    assert (wished.status, wished.finished_at) == ("running", None)
    assert wished.cancel_requested_at is not None
    service.write(runs.finish, claim, "cancelled")
    assert openai.fine_tuning.jobs.retrieve(job.id).status == "cancelled"


def test_job_that_has_ended_cannot_be_cancelled(service, openai, create_job):
    job = create_job()
    claim = service.claim(job.id)
    error = {"code": "invalid_image", "message": "cat/1.png cannot be used.", "param": "training_file"}
    service.write(runs.finish, claim, "failed", error=error)
    with pytest.raises(BadRequestError) as caught:
        openai.fine_tuning.jobs.cancel(job.id)
    assert caught.value.code == "illegal_transition"
    failed = openai.fine_tuning.jobs.retrieve(job.id)
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", "invalid_image", "training_file")
    assert failed.fine_tuned_model is None


def test_a_list_of_jobs_leaves_out_what_a_result_says_of_single_images(service, openai, create_job):
    group = {"accuracy": 0.5, "confusion": {"labels": ["cat"], "counts": [[0, 0, 1]]}, "mistakes": [{"path": "a.png"}]}
    result = {name: {"trained_domains": {"trained_classes": group}} for name in ("zero_shot", "tuned")}
    result["headline"] = {"tuned": 0.5}
    job = create_job(metadata={"test": "details"})
    service.finish(job.id, result)
    (listed,) = openai.fine_tuning.jobs.list(extra_query={"metadata[test]": "details"}).data
    short = {"trained_domains": {"trained_classes": {"accuracy": 0.5}}}
    assert listed.result == {"zero_shot": short, "tuned": short, "headline": {"tuned": 0.5}}
    assert openai.fine_tuning.jobs.retrieve(job.id).result == result


def test_finished_job_names_its_model_and_result(service, openai, create_job):
    result = {"headline": {"zero_shot": 0.25, "tuned": 0.5}}
    job = create_job(suffix="pets")
    model = service.finish(job.id, result)
    done = openai.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.fine_tuned_model, done.result) == ("succeeded", model, result)
    assert model.startswith("ft:tiny:default:pets:")
    assert done.finished_at >= done.started_at >= done.created_at


def test_estimated_finish_is_a_whole_second_in_the_future(service, openai, create_job):
    job = create_job(extra_body={"num_steps": 1000})
    claim = service.claim(job.id)
    service.write(runs.start_training, claim)
    for step in (1, 2, 3):
        service.write(runs.record_metrics, claim, [{"step": step, "kind": "train", "values": {"loss": 1.0}}])
        time.sleep(0.02)
    running = openai.fine_tuning.jobs.retrieve(job.id)
    assert running.progress == {"step": 3, "num_steps": 1000}
    assert isinstance(running.estimated_finish, int)
    assert running.estimated_finish > running.started_at


def test_events_page_newest_first_and_can_be_followed(service, openai, create_job):
    job = create_job()
    claim = service.claim(job.id)
    for number in range(5):
        service.write(runs.record_event, claim, "warn", f"event {number}", data={"number": number})
    first = openai.fine_tuning.jobs.list_events(job.id, limit=3)
    assert first.has_more
    events = list(first)
    assert [event.message for event in events][:5] == [f"event {number}" for number in (4, 3, 2, 1, 0)]
    assert len(events) == 7  # created and claimed came before
    assert (events[0].level, events[0].type, events[0].data) == ("warn", "message", {"number": 4})
    followed = openai.fine_tuning.jobs.list_events(job.id, after=events[2].id, extra_query={"order": "asc"})
    assert [event.message for event in followed] == ["event 3", "event 4"]


def test_checkpoints_page_newest_first(service, openai, create_job):
    job = create_job(suffix="pets")
    claim = service.claim(job.id)
    for step, accuracy in ((2, 0.125), (4, 0.5), (6, 0.25)):
        metrics = {"train_loss": 0.5, "valid_mean_token_accuracy": accuracy, "valid_accuracy": accuracy}
        service.write(runs.record_checkpoint, claim, step=step, artifact_uri="artifact:jobs/a", metrics=metrics)
    first = openai.fine_tuning.jobs.checkpoints.list(job.id, limit=1)
    assert first.has_more
    checkpoints = list(first)
    assert [checkpoint.step_number for checkpoint in checkpoints] == [6, 4, 2]
    assert [checkpoint.is_best for checkpoint in checkpoints] == [False, True, False]
    newest = checkpoints[0]
    assert newest.fine_tuning_job_id == job.id
    assert newest.fine_tuned_model_checkpoint == f"ft:tiny:default:pets:{job.id}:ckpt-step-6"
    assert (newest.metrics.step, newest.metrics.train_loss, newest.metrics.valid_accuracy) == (6, 0.5, 0.25)


def test_a_deleted_checkpoint_takes_its_files_along(service, http, create_job, tmp_path):
    job = create_job()
    claim = service.claim(job.id)
    (tmp_path / "weights").write_bytes(b"weights")
    uris = [service.artifacts.put_folder(tmp_path, f"jobs/{job.id}/step-{step}") for step in (2, 4)]
    for step, uri in zip((2, 4), uris, strict=True):
        service.write(runs.record_checkpoint, claim, step=step, artifact_uri=uri, metrics={}, num_bytes=7)
    new, old = http.get(f"{JOBS}/{job.id}/checkpoints").json()["data"]
    assert (new["num_bytes"], new["is_best"]) == (7, False)
    refused = http.delete(f"{JOBS}/{job.id}/checkpoints/{new['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "checkpoint_in_use")
    deleted = http.delete(f"{JOBS}/{job.id}/checkpoints/{old['id']}")
    assert deleted.json() == {"id": old["id"], "object": "fine_tuning.job.checkpoint", "deleted": True}
    assert [service.artifacts.exists(uri) for uri in uris] == [False, True]
    assert http.delete(f"{JOBS}/{job.id}/checkpoints/{old['id']}").status_code == 404
    entries = http.get("/v1/audit_log").json()["data"]
    assert any(entry["action"] == "checkpoint.delete" and entry["object_id"] == old["id"] for entry in entries)


def test_runs_name_worker_host_device_and_outcome(service, http, create_job):
    job = create_job()
    service.write(runs.release, service.claim(job.id))
    service.claim(job.id)
    first, second = http.get(f"{JOBS}/{job.id}/runs").json()["data"]
    assert (first["fence"], first["worker"], first["host"], first["device"]) == (1, "worker@host", "host", "cpu")
    assert first["outcome"] == "stopped"
    assert first["ended_at"] >= first["started_at"]
    assert (second["fence"], second["outcome"], second["ended_at"]) == (2, None, None)


def test_logs_are_those_of_the_last_run_that_has_some(service, http, create_job, tmp_path):
    job = create_job()
    assert (http.get(f"{JOBS}/{job.id}/logs").status_code, http.get(f"{JOBS}/{job.id}/logs").text) == (200, "")
    for number in (1, 2):
        claim = service.claim(job.id)
        (tmp_path / "trainer.log").write_text(f"run {number} ü\n")
        uri = service.artifacts.put_file(tmp_path / "trainer.log", f"jobs/{job.id}/run-{number}/trainer.log")
        service.write(runs.record_log, claim, uri)
        service.write(runs.release, claim)
    answer = http.get(f"{JOBS}/{job.id}/logs")
    assert (answer.text, answer.headers["content-type"]) == ("run 2 ü\n", "text/plain; charset=utf-8")
    run_id = http.get(f"{JOBS}/{job.id}/runs").json()["data"][0]["id"]
    assert http.get(f"{JOBS}/{job.id}/logs", params={"run_id": run_id}).text == "run 1 ü\n"
    assert http.get(f"{JOBS}/{job.id}/logs", params={"run_id": "run-nothing"}).status_code == 404


def test_metrics_go_on_after_a_step(service, http, create_job):
    job = create_job()
    claim = service.claim(job.id)
    records = [{"step": step, "kind": "train", "values": {"loss": 1 / (step + 1)}} for step in range(6)]
    records.append({"step": 3, "kind": "evaluation", "values": {"bma": {"accuracy": 0.5}}})
    service.write(runs.record_metrics, claim, records)

    def read(**query):
        answer = http.get(f"{JOBS}/{job.id}/metrics", params=query).json()
        return [(metric["step"], metric["kind"]) for metric in answer["data"]], answer["has_more"]

    assert read(limit=2) == ([(0, "train"), (1, "train")], True)
    assert read(limit=2, after_step=1) == ([(2, "train"), (3, "evaluation"), (3, "train")], True)
    assert read(limit=2, after_step=3) == ([(4, "train"), (5, "train")], False)
    assert read(kind="evaluation") == ([(3, "evaluation")], False)
    assert http.get(f"{JOBS}/{job.id}/metrics", params={"kind": "evaluation"}).json()["data"][0]["values"] == {
        "bma": {"accuracy": 0.5}
    }


@pytest.mark.parametrize(
    "path",
    ["", "/cancel", "/events", "/checkpoints", "/runs", "/logs", "/metrics", "/similarity", "/similarity.png"],
)
def test_unknown_job_is_404_on_every_route(http, path):
    answer = http.request("POST" if path == "/cancel" else "GET", f"{JOBS}/ftjob-nothing{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")


def test_unknown_place_in_a_list_is_404_and_no_endless_loop(openai, create_job):
    job = create_job()
    for call in (
        lambda: openai.fine_tuning.jobs.list(after="ftjob-nothing"),
        lambda: openai.fine_tuning.jobs.list_events(job.id, after="ftevent-999999999"),
        lambda: openai.fine_tuning.jobs.list_events(job.id, after="nonsense"),
        lambda: openai.fine_tuning.jobs.checkpoints.list(job.id, after="ckpt-nothing"),
        lambda: openai.files.list(after="file-nothing"),
    ):
        with pytest.raises(NotFoundError) as caught:
            call()
        assert caught.value.param == "after"


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"limit": "many"}, {"after": ""}, {"order": "up"}])
def test_page_that_cannot_be_is_refused_by_name(http, create_job, query):
    answer = http.get(f"{JOBS}/{create_job().id}/events", params=query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, next(iter(query)))


def found(openai, metadata):
    return [job.id for job in openai.fine_tuning.jobs.list(metadata=metadata)]


def test_a_job_tells_its_dataset_once_it_is_checked(service, openai, http, create_job, tmp_path):
    job = create_job()
    assert job.dataset is None
    answer = http.get(f"{JOBS}/{job.id}/split")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "job_not_ready")
    (tmp_path / "split.json").write_text('{"images": []}')
    uri = service.artifacts.put_file(tmp_path / "split.json", f"jobs/{job.id}/split.json")
    dataset = {"fingerprint": "f", "validation_fingerprint": None, "num_images": 2, "parts": {"train": 2}}
    claim = service.claim(job.id)
    service.write(runs.record_dataset, claim, dataset | {"split_sha256": "s", "split_uri": uri})
    told = openai.fine_tuning.jobs.retrieve(job.id)
    assert told.dataset == dataset | {"split_sha256": "s", "test_fingerprints": {}}
    assert http.get(told.links["split"]).json() == {"images": []}


def test_a_job_from_before_a_setting_was_there_is_told_with_its_default(service, openai, create_job):
    job = create_job()
    service.write(_forget_setting, job.id, "smoothing")
    assert openai.fine_tuning.jobs.retrieve(job.id).hyperparameters.smoothing == FinetuneConfig.smoothing
    assert job.id in [each.id for each in openai.fine_tuning.jobs.list(limit=5).data]


def _forget_setting(session, job_id, name):
    row = session.get(Job, job_id)
    row.config = {field: value for field, value in row.config.items() if field != name}
