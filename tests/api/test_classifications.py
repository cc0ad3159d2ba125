"""Classifications of datasets over HTTP: created, refused, listed, cancelled, and their answers fetched."""

import hashlib
import json

import httpx2
import numpy as np
import pytest

from alignclip_core.run_dir import ClassSimilarity
from alignclip_store import runs
from alignclip_store.database import reading
from alignclip_store.job_kinds import JobKind
from alignclip_store.jobs import get_job
from alignclip_store.runs import NewResultFile
from alignclip_store.similarities import get_similarity

URL = "/v1/classifications"
LABELS = ["cat", "dog"]
LINES = [
    {"path": "cat/0.png", "label": "cat", "predictions": [{"label": "dog", "score": 0.75}], "rejected": None},
    {"path": "cat/1.png", "error": "The image is empty."},
]
RESULT = {
    "num_images": 2, "num_failed": 1, "num_rejected": None, "num_by_label": {"dog": 1}, "num_judged": 1,
    "accuracy": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(start_service, archive, dataset_root):
    """A service of these tests' own, with an uploaded dataset and a tuned model called `production`."""
    service = start_service(dataset_roots=[dataset_root])
    service.file_id = service.upload(archive)
    body = {"model": "tiny", "training_file": service.file_id, "num_steps": 2}
    service.tuned = service.finish(service.http.post("/v1/fine_tuning/jobs", json=body).json()["id"])
    service.http.put("/v1/aliases/production", json={"model": service.tuned})
    return service


@pytest.fixture
def ask(asked):
    """ask(**fields): the answer to a POST of the uploaded dataset to the tuned model."""

    def create(headers=None, **fields):
        body = {"model": "production", "dataset": asked.file_id} | fields
        return asked.http.post(URL, json=body, headers=headers or {})

    return create


@pytest.fixture
def finish(asked):
    """finish(id): what a worker does, up to the answers."""

    def finish_it(job_id):
        content = b"".join(json.dumps(line).encode() + b"\n" for line in LINES)
        local = asked.settings.home_dir / "results.jsonl"
        local.write_bytes(content)
        claim = asked.claim(job_id)
        uri = asked.artifacts.put_file(local, f"jobs/{job_id}/run-1/results.jsonl")
        digest = hashlib.sha256(content).hexdigest()
        asked.write(runs.start_training, claim)
        asked.write(runs.record_metrics, claim, [{"step": 2, "kind": "classify", "values": {"images_per_second": 9.0}}])
        file = NewResultFile(artifact_uri=uri, num_bytes=len(content), sha256=digest)
        asked.write(runs.finish, claim, "succeeded", result=RESULT | {"sha256": digest}, result_file=file)
        return content

    return finish_it


def stored(service, job_id):
    """The row, and the labels and embeddings that its worker gets."""
    with reading(service.engine) as session:
        job = get_job(session, "default", job_id, kind=JobKind.CLASSIFICATION)
        row = get_similarity(session, "default", job.similarity_id)
    return job, ClassSimilarity.load(service.artifacts.local_path(row.artifact_uri))


def test_it_is_queued_for_the_aliased_models_own_classes(asked, ask):
    answer = ask(metadata={"team": "zoo"}).json()
    assert (answer["object"], answer["status"], answer["phase"]) == ("classification", "queued", "queued")
    assert (answer["model"], answer["dataset"], answer["metadata"]) == (asked.tuned, asked.file_id, {"team": "zoo"})
    assert (answer["labels"], answer["templates"], answer["top_k"]) == (None, None, 5)
    assert (answer["num_images"], answer["num_done"]) == (15, 0)
    assert (answer["result"], answer["result_file"], answer["error"], answer["finished_at"]) == (None,) * 4
    assert answer["queue"]["position"] >= 1
    job, similarity = stored(asked, answer["id"])
    assert (job.base_model, job.model_id) == ("tiny", asked.tuned)
    assert similarity.class_names == ("cat", "dog", "red_panda")
    log = asked.http.get("/v1/audit_log", params={"object_id": answer["id"]}).json()["data"]
    assert [entry["action"] for entry in log] == ["classification.create"]
    assert asked.http.get(f"{URL}/{answer['id']}").json()["id"] == answer["id"]


def test_any_labels_and_templates_can_be_asked_of_a_base_model(asked, ask):
    answer = ask(model="tiny", labels=LABELS, templates="a {}.", top_k=1).json()
    assert (answer["labels"], answer["templates"], answer["top_k"]) == (LABELS, "a {}.", 1)
    job, similarity = stored(asked, answer["id"])
    assert (job.model_id, job.config) == ("tiny", {"top_k": 1})
    assert (similarity.class_names, similarity.templates) == (("cat", "dog"), ("a {}.",))
    assert np.allclose(np.linalg.norm(similarity.class_embeddings, axis=1), 1, atol=1e-5)


def test_a_folder_below_a_root_and_images_without_class_folders_will_do(ask, asked, dataset_root, pictures):
    (dataset_root / "flat").mkdir()
    for number, content in enumerate(list(pictures.values())[:4]):
        (dataset_root / "flat" / f"{number}.png").write_bytes(content)
    answer = ask(dataset=str(dataset_root / "flat")).json()
    assert (answer["num_images"], answer["dataset"]) == (4, str(dataset_root / "flat"))


def test_the_answers_are_a_file_of_lines_and_counts(asked, ask, finish):
    job_id = ask().json()["id"]
    early = asked.http.get(f"{URL}/{job_id}/results")
    assert (early.status_code, early.json()["error"]["code"]) == (400, "job_not_ready")
    content = finish(job_id)

    answer = asked.http.get(f"{URL}/{job_id}").json()
    assert (answer["status"], answer["num_images"], answer["num_done"]) == ("succeeded", 2, 2)
    assert answer["result"] == RESULT | {"sha256": hashlib.sha256(content).hexdigest()}
    found = asked.http.get(answer["result_file"])
    assert (found.status_code, found.content) == (200, content)
    assert found.headers["content-type"] == "application/jsonl"
    assert f"{job_id}.jsonl" in found.headers["content-disposition"]
    assert [json.loads(line) for line in found.text.splitlines()] == LINES


def test_answers_can_be_deleted_and_their_counts_stay(asked, ask, finish):
    job_id = ask().json()["id"]
    finish(job_id)
    deleted = asked.http.delete(f"{URL}/{job_id}/results").json()
    assert deleted == {"id": job_id, "object": "classification.results", "deleted": True}
    answer = asked.http.get(f"{URL}/{job_id}").json()
    assert (answer["result_file"], answer["result"]["num_images"]) == (None, 2)
    gone = asked.http.get(f"{URL}/{job_id}/results")
    assert (gone.status_code, "deleted" in gone.json()["error"]["message"]) == (404, True)
    assert not asked.artifacts.exists(f"artifact:jobs/{job_id}/run-1/results.jsonl")


def test_a_waiting_one_is_cancelled_at_once_and_can_be_tried_again(asked, ask):
    job_id = ask().json()["id"]
    cancelled = asked.http.post(f"{URL}/{job_id}/cancel").json()
    assert (cancelled["status"], cancelled["queue"]) == ("cancelled", None)
    assert asked.http.post(f"{URL}/{job_id}/cancel").json() == cancelled
    assert asked.http.post(f"{URL}/{job_id}/retry").json()["status"] == "queued"
    refused = asked.http.post(f"{URL}/{job_id}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "illegal_transition")
    log = asked.http.get("/v1/audit_log", params={"object_id": job_id, "order": "asc"}).json()["data"]
    assert {entry["action"] for entry in log} == {
        "classification.create", "classification.cancel", "classification.retry",
    }  # fmt: skip


def test_a_failed_one_says_why_and_its_log_can_be_read(asked, ask):
    job_id = ask().json()["id"]
    assert asked.http.get(f"{URL}/{job_id}/logs").text == ""
    claim = asked.claim(job_id)
    local = asked.settings.home_dir / "trainer.log"
    local.write_text("It broke.")
    asked.write(runs.record_log, claim, asked.artifacts.put_file(local, f"jobs/{job_id}/run-1/trainer.log"))
    error = {"code": "disk_full", "message": "The disk is full.", "param": None}
    asked.write(runs.finish, claim, "failed", error=error)
    answer = asked.http.get(f"{URL}/{job_id}").json()
    assert (answer["status"], answer["error"], answer["result"]) == ("failed", error, None)
    assert asked.http.get(f"{URL}/{job_id}/logs").text == "It broke."


def test_pages_are_newest_first(asked, ask):
    first, second = (ask(top_k=number).json()["id"] for number in (2, 3))
    page = asked.http.get(URL, params={"limit": 1}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([second], True)
    page = asked.http.get(URL, params={"limit": 1, "after": second}).json()
    assert [one["id"] for one in page["data"]] == [first]
    unknown = asked.http.get(URL, params={"after": "classify-nobody"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "after")


def test_openais_client_sees_fine_tuning_jobs_alone(asked, ask):
    job_id = ask().json()["id"]
    listed = asked.openai.fine_tuning.jobs.list(limit=100).data
    assert listed
    assert all(job.id.startswith("ftjob-") for job in listed)
    for method, path in (
        ("GET", ""), ("POST", "/cancel"), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/retry"),
        ("GET", "/events"), ("GET", "/checkpoints"), ("GET", "/runs"), ("GET", "/metrics"), ("GET", "/logs"),
        ("GET", "/split"), ("GET", "/similarity"), ("GET", "/stream"),
    ):  # fmt: skip
        answer = asked.http.request(method, f"/v1/fine_tuning/jobs/{job_id}{path}")
        assert answer.status_code == 404, path
    fine_tuning = listed[0].id
    for method, path in (("GET", ""), ("POST", "/cancel"), ("POST", "/retry"), ("GET", "/results"), ("GET", "/logs")):
        assert asked.http.request(method, f"{URL}/{fine_tuning}{path}").status_code == 404, path


@pytest.mark.parametrize("header", ["idempotency-key", "x-stainless-retry-count"])
def test_a_repeated_request_finds_its_classification(ask, header):
    value = {"idempotency-key": "once", "x-stainless-retry-count": "1"}[header]
    fields = {"metadata": {"test": header}}
    first = ask(headers={header: value}, **fields).json()["id"]
    assert ask(headers={header: value}, **fields).json()["id"] == first
    assert ask(**fields).json()["id"] != first


def test_a_key_that_named_another_request_is_refused(ask):
    ask(headers={"idempotency-key": "mine"}, top_k=1)
    refused = ask(headers={"idempotency-key": "mine"}, top_k=2)
    assert refused.json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"model": "ft:nobody"}, "model", "No model"),
        ({"model": "tiny"}, "labels", "no classes of its own"),
        ({"labels": ["cat"]}, "labels", "at least two"),
        ({"labels": ["cat", "cat"]}, "labels", "twice"),
        ({"labels": ["red panda", "red_panda"]}, "labels", "the same to the text tower"),
        ({"templates": "no place"}, "templates", "no template"),
        ({"dataset": "file-gone"}, "dataset", "No file"),
        ({"dataset": "/etc"}, "dataset", "not below a dataset root"),
        ({"top_k": 0}, "top_k", "greater than or equal to 1"),
        ({"top_k": "5"}, "top_k", "integer"),
        ({"labls": LABELS}, "labls", "not permitted"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(ask, fields, param, words):
    refused = ask(**fields)
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, param), error
    assert words in error["message"]


def test_a_dataset_without_images_is_refused(asked, ask, make_archive):
    refused = ask(dataset=asked.upload(make_archive({"cat/notes.txt": b"no image"})))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "dataset")


def test_it_takes_a_place_in_the_owners_queue(start_service, archive):
    service = start_service(max_queued_jobs=1)
    body = {"model": "tiny", "dataset": service.upload(archive), "labels": LABELS}
    assert service.http.post(URL, json=body).status_code == 200
    refused = service.http.post(URL, json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "quota_exceeded")
    queue = service.http.get("/v1/queue").json()
    assert (queue["jobs"]["queued"], len(queue["waiting"])) == (1, 1)


def test_scopes_read_by_infer_and_ask_by_train(asked, ask):
    job_id = ask().json()["id"]
    key = asked.http.post("/v1/api_keys", json={"name": "reader", "scopes": ["infer"]}).json()["key"]
    with httpx2.Client(base_url=asked.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as reader:
        assert reader.get(f"{URL}/{job_id}").status_code == 200
        assert reader.get(URL).status_code == 200
        for path in ("", f"/{job_id}/cancel", f"/{job_id}/retry"):
            assert reader.post(f"{URL}{path}", json={"model": "tiny", "dataset": "file-x"}).status_code == 403
        assert reader.delete(f"{URL}/{job_id}/results").status_code == 403
