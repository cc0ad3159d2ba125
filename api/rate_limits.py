"""How often a key may ask, by the kind of request, and how often an address may be wrong.

The defaults are far above what a person's script does: they stop a loop gone wild, and guessing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar, get_args

import structlog
from fastapi import Request
from limits import RateLimitItem, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from alignclip_store.settings import Settings
from api.errors import RateLimited

RequestKind = Literal["reads", "classify", "writes", "uploads"]
REQUEST_KINDS: tuple[RequestKind, ...] = get_args(RequestKind)

INFERENCE_ROUTES = ("/classify", "/embeddings", "/explain")  # ends of paths that count as `classify`

STORAGE_SECONDS = 0.5  # how long a request may wait for the shared counters
STORAGE_AWAY_SECONDS = 10.0  # how long they are left alone after they did not answer

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class RateLimits:
    """Counts in memory, or in a Redis that several APIs share; in memory, too, while that Redis is away."""

    def __init__(self, settings: Settings) -> None:
        self._allowed: Mapping[str, RateLimitItem] = {
            "reads": RateLimitItemPerMinute(settings.max_reads_per_minute),
            "classify": RateLimitItemPerMinute(settings.max_classify_per_minute),
            "writes": RateLimitItemPerMinute(settings.max_writes_per_minute),
            "uploads": RateLimitItemPerMinute(settings.max_uploads_per_minute),
            "failed keys": RateLimitItemPerMinute(settings.max_failed_keys_per_minute),
        }
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        shared = _shared_storage(settings)
        self._shared = SlidingWindowCounterRateLimiter(shared) if shared is not None else None
        self._away_until = 0.0

    def count_request(self, kind: RequestKind, key_id: str) -> None:
        """Raises `RateLimited` when the key has asked too often."""
        item = self._allowed[kind]
        if not self._ask(lambda limiter: limiter.hit(item, kind, key_id)):
            raise RateLimited(
                f"This key has sent {item.amount:,} requests of the kind {kind!r} within a minute; wait and try again.",
                retry_after=self._seconds_left(item, kind, key_id),
            )

    def count_failure(self, address: str) -> None:
        """Remember that the address sent a wrong key."""
        item = self._allowed["failed keys"]
        self._ask(lambda limiter: limiter.hit(item, "failed keys", address))

    def refuse_guessing(self, address: str) -> None:
        """Raises `RateLimited` when the address has sent too many wrong keys."""
        item = self._allowed["failed keys"]
        if not self._ask(lambda limiter: limiter.test(item, "failed keys", address)):
            raise RateLimited(
                "Too many wrong API keys came from this address; wait and try again.",
                retry_after=self._seconds_left(item, "failed keys", address),
            )

    def _seconds_left(self, item: RateLimitItem, *names: str) -> int:
        reset_at = self._ask(lambda limiter: limiter.get_window_stats(item, *names)).reset_time
        return min(max(math.ceil(reset_at - time.time()), 1), item.get_expiry())

    def _ask(self, question: Callable[[SlidingWindowCounterRateLimiter], Value]) -> Value:
        if self._shared is not None and time.monotonic() >= self._away_until:
            try:
                return question(self._shared)
            except StorageError as error:
                self._away_until = time.monotonic() + STORAGE_AWAY_SECONDS
                log.warning("The shared rate limits are away; this process counts for itself.", error=str(error))
        return question(self._own)


def kind_of(request: Request) -> RequestKind:
    """Which limit a request counts against."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return "reads"
    if request.url.path.endswith(INFERENCE_ROUTES):
        return "classify"
    return "uploads" if request.url.path == "/v1/files" or request.url.path.endswith("/parts") else "writes"


def _shared_storage(settings: Settings) -> Storage | None:
    if settings.rate_limit_url is None:
        return None
    url = settings.rate_limit_url.replace("redis+socket://", "redis+unix://", 1)
    options: dict[str, float] = {"socket_timeout": STORAGE_SECONDS, "socket_connect_timeout": STORAGE_SECONDS}
    storage = storage_from_string(url, wrap_exceptions=True, **options)
    assert isinstance(storage, Storage)
    return storage
