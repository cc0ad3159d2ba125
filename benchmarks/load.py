"""Clients in a closed loop: each sends its next request when it has the answer to its last.

python -m benchmarks.load < LOAD > MEASURED, both as JSON: a process of its own, as clients are.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import httptools

TIMEOUT_SECONDS = 120.0
MIN_ANSWERS = 3  # of each client, however slow they come
BOUNDARY = "a-boundary-that-no-picture-holds"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked, by how many, for how long."""

    url: str
    headers: Mapping[str, str]
    pictures: Sequence[str]  # paths of JPEG files, each client begins with another
    labels: Sequence[str]
    num_clients: int
    warm_up_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the clients saw after the warm-up."""

    requests_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    num_requests: int


@dataclass(frozen=True)
class Answer:
    """When a client had an answer, and how long it took."""

    at: float
    seconds: float


def measure_load(load: Load) -> Measured:
    """Run the clients. Raises `RuntimeError` for an answer that is not 200."""
    with ThreadPoolExecutor(load.num_clients) as pool:
        clients = list(pool.map(lambda number: _ask(load, number), range(load.num_clients)))
    cuts = quantiles((answer.seconds for client in clients for answer in client), n=100, method="inclusive")
    return Measured(
        requests_per_second=sum(_rate(client) for client in clients),
        p50_milliseconds=1000 * cuts[49],
        p99_milliseconds=1000 * cuts[98],
        num_requests=sum(len(client) for client in clients),
    )


def measure_load_in_own_process(load: Load) -> Measured:
    """The same from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(command, input=json.dumps(asdict(load)), check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout))


def _rate(answers: Sequence[Answer]) -> float:
    """Requests a second of one client, from answer to answer: answers come in bursts, which a fixed time would cut."""
    return (len(answers) - 1) / (answers[-1].at - answers[0].at)


def _ask(load: Load, number: int) -> list[Answer]:
    """The answers of one client after the warm-up."""
    url = urlsplit(load.url)
    requests = [
        _request_of(form_of(Path(picture).read_bytes(), load.labels), url.path, {"Host": url.netloc, **load.headers})
        for picture in load.pictures
    ]
    before = time.perf_counter()
    warm_at = before + load.warm_up_seconds
    answers: list[Answer] = []
    with closing(socket.create_connection((url.hostname, url.port), TIMEOUT_SECONDS)) as connection:
        while before < warm_at + load.seconds or len(answers) < MIN_ANSWERS:
            connection.sendall(requests[number % len(requests)])
            status, content = _read_answer(connection)
            if status != 200:
                raise RuntimeError(f"{load.url} answered {status}: {content[:500]!r}")
            now = time.perf_counter()
            if now >= warm_at:
                answers.append(Answer(now, now - before))
            before = now
            number += 1
    return answers


def _request_of(body: bytes, path: str, headers: Mapping[str, str]) -> bytes:
    """The whole request as it goes over the wire: clients take their share of the cores, so they do little."""
    lines = {"Content-Type": FORM, "Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class _Reader:
    """What a parser tells of an answer."""

    def __init__(self) -> None:
        self.content = b""
        self.is_complete = False

    def on_body(self, part: bytes) -> None:
        self.content += part

    def on_message_complete(self) -> None:
        self.is_complete = True


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body. Raises `ConnectionError` where the server ends before the answer does."""
    reader = _Reader()
    parser = httptools.HttpResponseParser(reader)
    while not reader.is_complete:
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionError("The server closed the connection before its answer was whole.")
        parser.feed_data(part)
    return parser.get_status_code(), reader.content


def form_of(picture: bytes, labels: Sequence[str]) -> bytes:
    """A multipart form with the picture and the labels, of the content type `FORM`."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="labels"\r\n\r\n{label}\r\n' for label in labels]
    parts.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="picture.jpg"\r\n')
    parts.append("Content-Type: image/jpeg\r\n\r\n")
    return "".join(parts).encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()


if __name__ == "__main__":
    print(json.dumps(asdict(measure_load(Load(**json.load(sys.stdin))))))
