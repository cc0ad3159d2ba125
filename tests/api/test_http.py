"""What holds on every route: keys, error bodies, ids of requests, limits; seen by plain HTTP and by the clients."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import openai as sdk
import pytest

from alignclip_store.database import reading
from alignclip_store.similarities import get_similarity
from alignclip_store.tables import Job

JOBS = "/v1/fine_tuning/jobs"
OPEN = {"/healthz", "/readyz"}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/fine_tuning/jobs/ftjob-1/cancel", "POST"),
        ("/v1/fine_tuning/jobs", "GET, POST"),
        ("/v1/files/file-1", "DELETE, GET"),
        ("/healthz", "GET"),
    ],
)
def test_a_wrong_method_is_405_with_all_that_are_allowed(service, path, allowed):
    answer = service.http.request("PATCH", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_every_route_but_health_wants_the_key(service):
    client = httpx2.Client()
    paths = client.get(f"{service.url}/openapi.json").json()["paths"]
    assert len(paths) > 15
    for path, operations in paths.items():
        for method in operations:
            url = service.url + path.replace("{model}", "tiny").replace("{job_id}", "x").replace(
                "{file_id}", "x"
            ).replace("{key_id}", "x")
            body = (
                {"json": {"model": "tiny", "training_file": "x", "class_names": ["a", "b"]}} if method == "post" else {}
            )
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {'a' * 12}"}):
                answer = client.request(method, url, headers=headers, **body)
                if path in OPEN:
                    assert answer.status_code == 200
                    continue
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), (method, path)
    client.close()


def test_key_of_other_letters_is_no_server_error(service):
    answer = httpx2.get(f"{service.url}/v1/models", headers={"authorization": "Bearer schlüssel".encode()})
    assert answer.status_code == 401


def test_documentation_is_open(service):
    assert httpx2.get(f"{service.url}/docs").status_code == 200


def test_clients_see_the_class_of_each_error(service, openai):
    wrong = sdk.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(sdk.AuthenticationError) as unknown_key:
        wrong.models.list()
    with pytest.raises(sdk.NotFoundError) as missing:
        openai.fine_tuning.jobs.retrieve("ftjob-nothing")
    with pytest.raises(sdk.BadRequestError) as refused:
        openai.fine_tuning.jobs.create(model="tiny", training_file="file-nothing")
    errors = [unknown_key.value, missing.value, refused.value]
    assert [error.code for error in errors] == ["invalid_api_key", "job_not_found", "dataset_rejected"]
    assert [error.type for error in errors] == ["authentication_error", *["invalid_request_error"] * 2]
    assert [error.param for error in errors] == [None, None, "training_file"]
    assert all(error.request_id for error in errors)
    assert all(set(error.body) == {"message", "type", "param", "code"} for error in errors)


def test_raw_answers_carry_the_request_id(openai, create_job):
    raw = openai.fine_tuning.jobs.with_raw_response.retrieve(create_job().id)
    assert raw.headers["x-request-id"] == raw.request_id == raw.parse()._request_id
    assert raw.status_code == 200


def test_request_id_of_the_client_is_kept_when_it_is_plain(http):
    assert http.get("/healthz", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    trace = "5b1f3c2e-0000-4000-8000-000000000000"
    assert http.get("/healthz", headers={"x-amzn-trace-id": trace}).headers["x-request-id"] == trace
    assert http.get("/healthz", headers={"x-request-id": "a b<c>"}).headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/files/", 404, "not_found"),
        ("POST", "/v1/fine_tuning/jobs/x/dance", 404, "not_found"),
        ("POST", "/v1/assistants", 404, "not_found"),
        ("PUT", "/v1/files", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_have_the_error_body_too(http, method, path, status, code):
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def small_service(start_service):
    """An API that takes 100 kB at most."""
    return start_service(max_body_bytes=100_000)


@pytest.mark.parametrize("path", [JOBS, "/v1/similarity", "/v1/models/tiny/classify"])
def test_body_over_the_limit_is_413_whether_its_length_is_told_or_not(small_service, path):
    headers = {"content-type": "application/json"}
    told = small_service.http.post(path, content=b"[" + b" " * 100_000, headers=headers)
    untold = small_service.http.post(path, content=(b" " * 1000 for _ in range(200)), headers=headers)
    for answer in (told, untold):
        error = answer.json()["error"]
        assert answer.status_code == 413
        assert "100,000" in (error["message"] if isinstance(error, dict) else error)


def test_upload_over_the_limit_is_413_for_the_client(small_service):
    for size in (200_000, 8_000_000):
        with pytest.raises(sdk.APIStatusError) as caught:
            small_service.openai.files.create(file=("big.zip", b"x" * size), purpose="fine-tune")
        assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
    parts = (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n', *[b"x" * 10_000] * 20)
    untold = small_service.http.post(
        "/v1/files", content=iter(parts), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert (untold.status_code, untold.json()["error"]["code"]) == (413, "body_too_large")
    assert list((small_service.settings.home_dir / "uploads").glob("*/*")) == []


def test_small_service_still_takes_what_is_small(small_service, archive):
    assert small_service.upload(archive).startswith("file-")


def test_unexpected_error_is_500_with_the_request_id(service, create_job):
    job = create_job()

    def spoil(session):
        session.get(Job, job.id).config = {}

    service.write(spoil)
    answer = service.http.get(f"{JOBS}/{job.id}")
    service.write(lambda session: session.delete(session.get(Job, job.id)))
    assert answer.status_code == 500
    assert (answer.json()["error"]["code"], answer.json()["error"]["type"]) == ("internal_error", "server_error")
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]


def test_missing_files_of_a_row_are_500_and_say_so(service, create_job):
    job = create_job(extra_body={"num_steps": 2, "templates": ["lost {}"]})
    with reading(service.engine) as session:
        uri = get_similarity(session, "default", job.similarity["id"]).artifact_uri
    service.artifacts.delete(uri)
    answer = service.http.get(job.similarity["url"])
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "artifact_missing")


def test_lost_answer_and_the_clients_own_retry_make_one_job(service, file_id):
    with LossyProxy(service.url) as proxy:
        client = sdk.OpenAI(base_url=f"{proxy.url}/v1", api_key="acl-test-key", max_retries=2)
        job = client.fine_tuning.jobs.create(
            model="tiny", training_file=file_id, metadata={"test": "lost"}, extra_body={"num_steps": 2}
        )
    assert proxy.num_lost == 1
    assert [each.id for each in service.openai.fine_tuning.jobs.list(metadata={"test": "lost"})] == [job.id]


class LossyProxy:
    """Passes requests on, and answers the first POST with 503 although the service has done it."""

    def __init__(self, target):
        self.num_lost = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                answer = httpx2.post(target + self.path, content=body, headers=headers)
                status, content = answer.status_code, answer.content
                if not proxy.num_lost:
                    proxy.num_lost += 1
                    status, content = 503, json.dumps({"error": {"message": "lost"}}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *raised):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
