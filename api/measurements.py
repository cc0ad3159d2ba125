"""What this process counts of its own work. Labels are bounded: route templates, methods, status codes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # a client may send any word


class Measurements:
    """Counters and histograms of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "alignclip_http_requests",
            "Requests by route template.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "alignclip_http_request_seconds",
            "Time from the request to the end of its answer.",
            ("method", "route"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._classify_seconds = Histogram(
            "alignclip_classify_seconds",
            "Time of a classify request without its upload.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self._classify_images = Histogram(
            "alignclip_classify_images", "Images in a classify request.", buckets=BATCH_SIZES, registry=self.registry
        )

        self._batch_images = Histogram(
            "alignclip_batch_images", "Images in a forward pass.", buckets=BATCH_SIZES, registry=self.registry
        )
        self._batch_wait_seconds = Histogram(
            "alignclip_batch_wait_seconds",
            "Time that decoded images of a request waited for their forward pass.",
            buckets=SECONDS,
            registry=self.registry,
        )

    def count_batch(self, num_images: int, waited_seconds: Sequence[float]) -> None:
        """A forward pass, and how long each request in it had waited."""
        self._batch_images.observe(num_images)
        for seconds in waited_seconds:
            self._batch_wait_seconds.observe(seconds)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """An answered request; `route` is its template, never its path."""
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    @contextmanager
    def classifying(self, num_images: int) -> Iterator[None]:
        """Measure the block as one classify request."""
        self._classify_images.observe(num_images)
        with self._classify_seconds.time():
            yield


class RequestMeter:
    """Counts every request by the template of its route."""

    def __init__(self, app: ASGIApp, measurements: Measurements) -> None:
        self.app = app
        self.measurements = measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # where no answer was begun
        started = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self.measurements.count_request(scope["method"], route, status, time.perf_counter() - started)
