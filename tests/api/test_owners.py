"""Nobody reaches another owner's things: every route with an id, as the description of the API lists them."""

import re

import httpx2
import pytest

from alignclip_store.database import database_now, transaction
from alignclip_store.tables import Checkpoint
from alignclip_store.webhooks import create_webhook

EVERYTHING = ["infer", "train", "admin"]
BODIES = {  # of the routes that look at their body before they look for the id
    "classify_images": {"inputs": "aGVsbG8=", "parameters": {"candidate_labels": ["cat", "dog"]}},
    "interpolate_model": {"alpha": 0.5},
    "set_alias": {"model": "ft:nothing"},
    "embed": {"input": "cat"},
    "complete_upload": {"part_ids": ["part-none"]},
}
FORMS = {
    "explain_image": {"files": {"image": b"hello"}, "data": {"label": "cat"}},
    "add_upload_part": {"files": {"data": b"hello"}},
}
QUERIES = {"retrieve_job_image": {"path": "cat/0.png"}}


@pytest.fixture(scope="module")
def theirs(start_service):
    """A service of these tests' own."""
    return start_service()


@pytest.fixture(scope="module")
def ids(theirs, archive):
    """One thing of each kind that the default owner has, by the names in paths."""
    service = theirs
    body = {"model": "tiny", "num_steps": 2}
    file_id = service.upload(archive)
    done = service.http.post("/v1/fine_tuning/jobs", json=body | {"training_file": file_id}).json()["id"]
    model = service.finish(done)
    job_id = service.http.post("/v1/fine_tuning/jobs", json=body | {"training_file": file_id}).json()["id"]
    key = service.http.post("/v1/api_keys", json={"name": "theirs", "scopes": EVERYTHING}).json()
    with transaction(service.engine) as session:
        webhook_id = create_webhook(session, "default", url="https://example.com/", event_types=["x"]).id
        row = Checkpoint(id="ckpt-theirs", owner="default", job_id=done, step=2, artifact_uri="artifact:c", metrics={})
        row.created_at = database_now(session)
        session.add(row)
    service.http.put("/v1/aliases/theirs", json={"model": model})
    grid = {"protocol": "few_shot", "dataset": file_id, "methods": ["finetune"], "model": "tiny"}
    evaluation_id = service.http.post("/v1/evaluations", json=grid).json()["id"]
    announced = {"filename": "a.zip", "purpose": "fine-tune", "bytes": 9, "mime_type": "application/zip"}
    upload_id = service.http.post("/v1/uploads", json=announced).json()["id"]
    found = {
        "upload_id": upload_id,
        "file_id": file_id,
        "job_id": job_id,
        "model": model,
        "key_id": key["id"],
        "webhook_id": webhook_id,
    }
    dataset_id = service.http.post("/v1/datasets", json={"dataset": file_id, "model": "tiny"}).json()["id"]
    asked = {"model": model, "dataset": file_id}
    classification_id = service.http.post("/v1/classifications", json=asked).json()["id"]
    found |= {"dataset_id": dataset_id, "classification_id": classification_id}
    return found | {"name": "theirs", "checkpoint_id": "ckpt-theirs", "evaluation_id": evaluation_id}


@pytest.fixture(scope="module")
def stranger(theirs):
    """Plain HTTP with all scopes, of another owner."""
    service = theirs
    body = {"name": "stranger", "scopes": EVERYTHING, "owner": "mallory"}
    key = service.http.post("/v1/api_keys", json=body).json()["key"]
    with httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


def _operations(service):
    for path, methods in service.http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_route_with_an_id_is_404_for_another_owner(theirs, ids, stranger):
    service = theirs
    tried = set()
    for path, method, operation in _operations(service):
        names = re.findall(r"{(\w+)}", path)
        if not names:
            continue
        assert set(names) <= set(ids), f"{path}: tell this test what to put there"
        tried |= set(names)
        place = path.format(**ids)
        name = operation["operationId"]
        body = {"json": BODIES.get(name, {})} if method in ("post", "put", "patch") else {}
        body = FORMS.get(name, body)
        answer = stranger.request(method, place, params=QUERIES.get(name), **body)
        assert answer.status_code == 404, (method, path, answer.text[:300])
    assert tried == set(ids)


def test_lists_have_nothing_of_another_owner(theirs, ids, stranger):
    service = theirs
    for path, method, operation in _operations(service):
        if method != "get" or "{" in path or "security" not in operation:
            continue
        answer = stranger.get(path)
        assert not any(each in answer.text for each in ids.values()), path


def test_bodies_reach_no_file_and_no_page_of_another_owner(theirs, ids, stranger):
    body = {"model": "tiny", "training_file": ids["file_id"], "num_steps": 2}
    for path in ("/v1/fine_tuning/jobs", "/v1/fine_tuning/estimate"):
        assert (answer := stranger.post(path, json=body)).status_code == 400, answer.text
    for path, name in (("/v1/files", "file_id"), ("/v1/fine_tuning/jobs", "job_id"), ("/v1/api_keys", "key_id")):
        assert stranger.get(path, params={"after": ids[name]}).status_code == 404


def test_the_things_are_still_there_for_their_owner(theirs, ids):
    service = theirs
    job = service.http.get(f"/v1/fine_tuning/jobs/{ids['job_id']}").json()
    assert job["status"] == "queued"
    assert service.http.get(f"/v1/models/{ids['model']}").status_code == 200
    assert service.http.get(f"/v1/files/{ids['file_id']}").status_code == 200
