"""The service's HTTP API as the commands use it: one method per call, one clear line per error."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Literal, Protocol
from urllib.parse import quote, urlsplit

import httpx2

from alignclip_store.job_kinds import FACTS, JobKind
from cli.environment import load_client_settings
from cli.errors import RequestRefused, ServiceUnreachable, StreamUnusable

Json = dict[str, Any]

CLASSIFICATION_PREFIX = f"{FACTS[JobKind.CLASSIFICATION].id_prefix}-"  # of ids
CONNECT_SECONDS = 5.0
STREAM_SECONDS = 45.0  # between two signs of life of a stream, which come every 15
NO_STREAM = (404, 405, 406, 501)  # of a stream whose job is there: an older service, or a proxy
ANSWER_SECONDS = 600.0  # the similarity of thousands of class names takes a while on a CPU


class Readable(Protocol):
    """What an upload is read from, piece by piece."""

    def read(self, size: int = -1, /) -> bytes: ...


class ServiceClient:
    """Calls one service with one key. Raises `ServiceUnreachable` and `RequestRefused`."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx2.Client(
            base_url=f"{self._url}/v1",
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=not _is_this_machine(url),  # a proxy of the environment does not reach our loopback
        )

    def close(self) -> None:
        self._http.close()

    def create_file(self, name: str, content: Readable) -> Json:
        """Upload a zip for fine-tuning; it is sent while it is read."""
        files = {"file": (name, content, "application/zip")}
        return self._send("POST", "/files", data={"purpose": "fine-tune"}, files=files)

    def create_job(self, body: Mapping[str, Any]) -> Json:
        return self._send("POST", "/fine_tuning/jobs", json=body)

    def get_job(self, job_id: str) -> Json:
        return self._send("GET", f"/fine_tuning/jobs/{quote(job_id, safe='')}")

    def list_jobs(self, limit: int) -> list[Json]:
        """The newest jobs, up to `limit`."""
        jobs: list[Json] = []
        while len(jobs) < limit:
            after = {"after": jobs[-1]["id"]} if jobs else {}
            page = self._send("GET", "/fine_tuning/jobs", params={"limit": min(limit - len(jobs), 100), **after})
            jobs += page["data"]
            if not page["has_more"] or not page["data"]:
                break
        return jobs

    def change_job(self, job_id: str, verb: Literal["cancel", "pause", "resume", "retry"]) -> Json:
        """A fine-tuning job's, or a classification's: its id says which it is."""
        place = "/classifications" if job_id.startswith(CLASSIFICATION_PREFIX) else "/fine_tuning/jobs"
        return self._send("POST", f"{place}/{quote(job_id, safe='')}/{verb}")

    def create_classification(self, body: Mapping[str, Any]) -> Json:
        return self._send("POST", "/classifications", json=body)

    def get_classification(self, classification_id: str) -> Json:
        return self._send("GET", f"/classifications/{quote(classification_id, safe='')}")

    def fetch_results(self, classification_id: str, file: IO[bytes]) -> None:
        """Write the answers of a classification to the file, while they come."""
        self._fetch(f"/classifications/{quote(classification_id, safe='')}/results", {}, file)

    def stream_job(self, job_id: str, last_event_id: str) -> Iterator[tuple[str, Json]]:
        """What happens to the job behind that id, as (kind of message, its object), while the connection holds.

        Raises `StreamUnusable` where no stream comes through.
        """
        path = f"/fine_tuning/jobs/{quote(job_id, safe='')}/stream"
        headers = {"Last-Event-ID": last_event_id, "Accept": "text/event-stream"}
        timeout = httpx2.Timeout(STREAM_SECONDS, connect=CONNECT_SECONDS)
        num_messages = 0
        try:
            with (
                self._unbroken("GET", path),
                self._http.stream("GET", path, headers=headers, timeout=timeout) as response,
            ):
                _check_stream(response)
                for message in read_messages(response.iter_lines()):
                    num_messages += 1
                    yield message
        except ServiceUnreachable as error:
            if not num_messages and isinstance(error.__cause__, httpx2.ReadTimeout):  # the first comes at once
                raise StreamUnusable(f"{path} is silent.") from error
            raise

    def list_events(self, job_id: str, *, after: str | None) -> list[Json]:
        """The events behind an id: one page, oldest first."""
        params = {"order": "asc", "limit": 100} | ({"after": after} if after else {})
        page = self._send("GET", f"/fine_tuning/jobs/{quote(job_id, safe='')}/events", params=params)
        return page["data"]  # type: ignore[no-any-return]

    def list_metrics(self, job_id: str, *, kind: str, after_step: int | None) -> list[Json]:
        """Records {"step", "values"} of one kind behind a step: one page, oldest first."""
        params: Json = {"kind": kind} | ({} if after_step is None else {"after_step": after_step})
        page = self._send("GET", f"/fine_tuning/jobs/{quote(job_id, safe='')}/metrics", params=params)
        return page["data"]  # type: ignore[no-any-return]

    def report_on_dataset(self, body: Mapping[str, Any]) -> Json:
        return self._send("POST", "/datasets", json=body)

    def list_models(self) -> list[Json]:
        return self._send("GET", "/models")["data"]  # type: ignore[no-any-return]

    def classify(
        self, model: str, images: Sequence[tuple[str, bytes]], *, labels: Sequence[str], top_k: int
    ) -> list[Json]:
        """{"index", "filename", "predictions": [{"label", "score"}]} of each image, in order; best label first."""
        data = {"top_k": str(top_k)} | ({"labels": json.dumps(list(labels))} if labels else {})
        files = [("image", (name, content, "application/octet-stream")) for name, content in images]
        path = f"/models/{quote(model, safe='')}/classify"
        return self._send("POST", path, data=data, files=files)["data"]  # type: ignore[no-any-return]

    def interpolate(self, model: str, alpha: float) -> Json:
        return self._send("POST", f"/models/{quote(model, safe='')}/interpolate", json={"alpha": alpha})

    def export(self, model: str, export_format: str, file: IO[bytes]) -> None:
        """Write the zip of an export to the file, while it comes."""
        self._fetch(f"/models/{quote(model, safe='')}/export", {"format": export_format}, file)

    def _fetch(self, path: str, params: Json, file: IO[bytes]) -> None:
        with self._unbroken("GET", path), self._http.stream("GET", path, params=params) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            for chunk in response.iter_bytes():
                file.write(chunk)

    def _send(self, method: str, path: str, **content: Any) -> Json:
        with self._unbroken(method, path):
            response = self._http.request(method, path, **content)
        if response.is_error:
            raise _refusal(response)
        return response.json()  # type: ignore[no-any-return]

    @contextmanager
    def _unbroken(self, method: str, path: str) -> Iterator[None]:
        """Raises `ServiceUnreachable` for what the connection raises."""
        try:
            yield
        except httpx2.ConnectError as error:
            raise ServiceUnreachable(
                f"Nothing answers at {self._url}. Start the service with `alignclip serve`, or set ALIGNCLIP_URL."
            ) from error
        except httpx2.HTTPError as error:
            raise ServiceUnreachable(
                f"{self._url} broke off {method} {path}: {error or type(error).__name__}"
            ) from error


@contextmanager
def connect() -> Iterator[ServiceClient]:
    """The client of the service that the environment names."""
    settings = load_client_settings()
    client = ServiceClient(settings.url, settings.api_key or "")
    try:
        yield client
    finally:
        client.close()


def read_messages(lines: Iterable[str]) -> Iterator[tuple[str, Json]]:
    """(event, data) of server-sent events; comments, which keep the connection open, are passed over."""
    event, data = "", ""
    for line in lines:
        if not line and data:
            yield event, json.loads(data)
            event, data = "", ""
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            data += value


def _check_stream(response: httpx2.Response) -> None:
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if response.status_code in NO_STREAM or (response.is_success and not is_stream):
        raise StreamUnusable(f"{response.url.path} gives no stream.")
    if response.is_error:
        response.read()
        raise _refusal(response)


def _refusal(response: httpx2.Response) -> RequestRefused:
    """The error of the answer as one line, whichever of the two shapes it has."""
    code = param = None
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = f"{response.status_code} {response.reason_phrase}: {response.text[:300]}"
    else:
        message = error if isinstance(error, str) else str(error["message"])
        code, param = (None, None) if isinstance(error, str) else (error.get("code"), error.get("param"))
    if response.status_code == httpx2.codes.UNAUTHORIZED:
        message += " Set ALIGNCLIP_API_KEY to the key of this service."
    if param and param not in message:
        message = f"{param}: {message}"
    return RequestRefused(message, status=response.status_code, code=code)


def _is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
