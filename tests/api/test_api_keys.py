"""API keys: their scopes, owners and ends; what many wrong ones lead to; the audit log that notes all of it."""

import base64
import hmac
import re
import socket
import time

import httpx2
import openai as sdk
import pytest
from sqlalchemy import text

from alignclip_store.database import transaction

KEYS = "/v1/api_keys"
JOBS = "/v1/fine_tuning/jobs"
EVERYTHING = ["infer", "train", "admin"]
CHANGES_NOTHING = {"classify_images", "create_similarity", "explain_image", "explain_images", "create_estimate"}


@pytest.fixture
def make_key(service):
    """Creates a key; fields of the body may be given. The answer."""

    def make(**fields):
        answer = service.http.post(KEYS, json={"name": "test", "scopes": ["infer"]} | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return make


@pytest.fixture
def client_of(service):
    """Plain HTTP with another key."""
    clients = []

    def make(key):
        clients.append(httpx2.Client(base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_text_of_a_key_is_shown_once_and_stored_nowhere(service, make_key, client_of):
    made = make_key(name="shop camera")
    assert client_of(made["key"]).get("/v1/models").status_code == 200
    listed = next(key for key in service.http.get(KEYS).json()["data"] if key["id"] == made["id"])
    assert "key" not in listed
    assert made["key"].startswith(listed["prefix"])
    with transaction(service.engine) as session:
        rows = [dict(row) for row in session.execute(text("SELECT * FROM api_keys")).mappings()]
    secret = made["key"].removeprefix(made["prefix"])
    assert secret not in str(rows)


def test_revoked_expired_and_unknown_keys_are_all_the_same_401(service, make_key, client_of):
    revoked, expired = make_key(), make_key(expires_in_seconds=1)
    service.http.delete(f"{KEYS}/{revoked['id']}").raise_for_status()
    for _ in range(100):
        if client_of(expired["key"]).get("/v1/models").status_code == 401:
            break
        time.sleep(0.1)
    unknown = revoked["prefix"] + "_" + "x" * 43
    answers = [client_of(key).get("/v1/models") for key in (revoked["key"], expired["key"], unknown)]
    assert [answer.status_code for answer in answers] == [401] * 3
    assert len({answer.text for answer in answers}) == 1


def test_keys_are_compared_as_digests_of_one_length_in_constant_time(service, monkeypatch):
    compared, compare = [], hmac.compare_digest

    def watched(one, other):
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr("api.authentication.hmac.compare_digest", watched)
    key = service.settings.bootstrap_api_key
    keys = (key, key[:-1], "x", "wrong" * 100)
    answers = [service.http.get("/v1/models", headers={"authorization": f"Bearer {key}"}) for key in keys]
    assert [answer.status_code for answer in answers] == [200, 401, 401, 401]
    assert (32, 32) in compared  # sha256
    assert all(one == other for one, other in compared)


def test_rotation_gives_a_successor_with_the_same_rights(service, make_key, client_of):
    old = make_key(scopes=["infer", "train"])
    with_overlap = service.http.post(f"{KEYS}/{old['id']}/rotate", json={"overlap_seconds": 600}).json()
    assert with_overlap["scopes"] == old["scopes"]
    assert [client_of(key["key"]).get(JOBS).status_code for key in (old, with_overlap)] == [200, 200]
    at_once = service.http.post(f"{KEYS}/{with_overlap['id']}/rotate").json()
    assert [client_of(key["key"]).get(JOBS).status_code for key in (with_overlap, at_once)] == [401, 200]
    assert service.http.post(f"{KEYS}/{with_overlap['id']}/rotate").status_code == 404


def test_key_without_the_scope_of_a_route_is_403_on_every_such_route(service, make_key, client_of):
    without = {scope: client_of(make_key(scopes=[s for s in EVERYTHING if s != scope])["key"]) for scope in EVERYTHING}
    wanted = {}
    for path, methods in service.http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            if "security" not in operation:
                continue
            declared = operation["security"][0]["HTTPBearer"]
            name = operation["operationId"]
            scope = declared[0] if declared else "infer" if method == "get" else "train"
            wanted[name] = scope
            place = re.sub(r"{\w+}", "x", path)
            answer = without[scope].request(method, place, **({"json": {}} if method in ("post", "put") else {}))
            assert answer.status_code == 403, (method, path, answer.text)
            assert "scope" in answer.text
    admin = {"api_key", "audit_log"}
    assert all(wanted[name] == "admin" for name in wanted if any(word in name for word in admin))
    assert {
        name for name in wanted if name.startswith(("create_", "delete_", "cancel_")) and wanted[name] == "infer"
    } <= (CHANGES_NOTHING)


def test_only_admins_of_the_default_owner_name_another_one(service, make_key, client_of):
    hers = client_of(make_key(owner="ada", scopes=EVERYTHING)["key"])
    his = make_key(owner="bob")
    assert hers.post(KEYS, json={"name": "x", "scopes": ["infer"]}).json()["owner"] == "ada"
    assert hers.post(KEYS, json={"name": "x", "scopes": ["infer"], "owner": "bob"}).status_code == 403
    assert hers.get(KEYS, params={"owner": "bob"}).status_code == 403
    assert hers.delete(f"{KEYS}/{his['id']}").status_code == 404
    assert {key["owner"] for key in hers.get(KEYS).json()["data"]} == {"ada"}
    assert his["id"] in {key["id"] for key in service.http.get(KEYS, params={"owner": "bob"}).json()["data"]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "x", "scopes": ["infer"], "owner": "../x"},
        {"name": "x", "scopes": ["infer"], "expires_in_seconds": 0},
    ],
)
def test_what_no_key_can_have_is_refused(http, body):
    assert http.post(KEYS, json=body).status_code == 400


def test_changes_are_in_the_audit_log_with_who_and_the_request(service, make_key, client_of, archive):
    made = make_key(owner="carol", scopes=EVERYTHING)
    hers = client_of(made["key"])
    upload = {"files": {"file": ("a.zip", archive)}, "data": {"purpose": "fine-tune"}}
    file_id = hers.post("/v1/files", **upload).json()["id"]
    body = {"model": "tiny", "training_file": file_id, "num_steps": 2}
    job_id = hers.post(JOBS, json=body, headers={"x-request-id": "walk-1"}).json()["id"]
    for change in ("pause", "resume", "cancel", "cancel", "retry", "cancel"):
        hers.post(f"{JOBS}/{job_id}/{change}").raise_for_status()
    hers.delete(f"/v1/files/{file_id}").raise_for_status()
    entries = hers.get("/v1/audit_log", params={"order": "asc", "limit": 100}).json()["data"]
    of_job = [entry for entry in entries if entry["object_id"] == job_id]
    assert [entry["action"].partition(".")[2] for entry in of_job] == [
        "create", "pause", "resume", "cancel", "retry", "cancel",
    ]  # fmt: skip
    assert of_job[0]["request_id"] == "walk-1"
    assert {entry["actor_key_id"] for entry in of_job} == {made["id"]}
    assert (of_job[1]["before"]["status"], of_job[1]["after"]["status"]) == ("queued", "paused")
    assert [entry["action"] for entry in entries if entry["object_id"] == file_id] == ["file.create", "file.delete"]
    assert {entry["owner"] for entry in entries} == {"carol"}
    again = hers.get("/v1/audit_log", params={"limit": 1}).json()["data"][0]
    assert again["action"] == "audit_log.read"
    page = hers.get("/v1/audit_log", params={"limit": 2, "after": entries[2]["id"], "order": "asc"}).json()
    assert [entry["id"] for entry in page["data"]] == [entry["id"] for entry in entries[3:5]]
    assert made["key"] not in str(entries)


def test_too_many_requests_are_429_with_the_time_to_wait(start_service, picture):
    service = start_service(max_reads_per_minute=3, max_classify_per_minute=1)
    answers = [service.http.get("/v1/models") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    with pytest.raises(sdk.RateLimitError):
        service.openai.models.list()
    body = {"inputs": base64.b64encode(picture).decode(), "parameters": {"candidate_labels": ["cat", "dog"]}}
    classify = [service.http.post("/v1/models/tiny/classify", json=body) for _ in range(2)]
    assert [answer.status_code for answer in classify] == [200, 429]
    assert isinstance(classify[1].json()["error"], str)
    assert "retry-after" in classify[1].headers


def test_guessing_keys_is_429_and_locks_nobody_out_who_was_here(start_service):
    service = start_service(max_failed_keys_per_minute=3)
    assert service.http.get("/v1/models").status_code == 200
    guesses = [
        httpx2.get(f"{service.url}/v1/models", headers={"authorization": f"Bearer guess-{number}"}).status_code
        for number in range(4)
    ]
    assert guesses == [401, 401, 401, 429]
    assert service.http.get("/v1/models").status_code == 200


def test_several_apis_count_together_in_a_shared_redis_and_alone_without_it(start_service, valkey_url):
    first, second = (start_service(max_reads_per_minute=4, rate_limit_url=valkey_url) for _ in range(2))
    answers = [service.http.get("/v1/models").status_code for service in (first, second) * 3]
    assert answers.count(429) == 2
    alone = start_service(rate_limit_url="redis+socket:///nowhere/valkey.sock")
    assert alone.http.get("/v1/models").status_code == 200


def test_quota_of_waiting_jobs_and_stored_bytes_is_a_429_that_clients_do_not_repeat(start_service, archive):
    service = start_service(max_queued_jobs=1, max_stored_bytes=len(archive) + 10)
    file_id = service.upload(archive)
    body = {"model": "tiny", "training_file": file_id, "num_steps": 2}
    job_id = service.http.post(JOBS, json=body).json()["id"]
    too_many = service.http.post(JOBS, json=body)
    too_large = service.http.post("/v1/files", files={"file": ("b.zip", archive)}, data={"purpose": "fine-tune"})
    for answer in (too_many, too_large):
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exceeded")
        assert answer.headers["x-should-retry"] == "false"
    service.http.post(f"{JOBS}/{job_id}/cancel").raise_for_status()
    assert service.http.post(JOBS, json=body).status_code == 200


def test_base_models_are_those_that_the_operator_allows(start_service, picture):
    service = start_service(allowed_base_models=["pooled"])
    assert [model["id"] for model in service.http.get("/v1/models").json()["data"]] == ["pooled"]
    assert service.http.post("/v1/models/tiny/classify", content=picture).status_code == 404
    refused = service.http.post("/v1/similarity", json={"model": "tiny", "class_names": ["cat", "dog"]})
    assert refused.status_code == 400
    assert "allows: pooled" in refused.json()["error"]["message"]


def test_client_that_stops_sending_is_408_and_disconnected(start_service):
    service = start_service(max_silence_seconds=0.5)
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        "POST /v1/similarity HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer acl-test-key\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b""
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"body_too_slow" in answer


def test_deeply_nested_json_is_a_wrong_request(http):
    answer = http.post(JOBS, content=b"[" * 200_000, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_log_has_no_key(start_service, capfd):
    service = start_service()
    service.http.get("/v1/models")
    httpx2.get(f"{service.url}/v1/models", headers={"authorization": "Bearer hf_somebodys_token"})
    shown = "".join(capfd.readouterr())
    assert "acl-test-key" not in shown
    assert "hf_somebodys_token" not in shown
