"""One kind of error for whatever a storage backend raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alignclip_core.errors import AlignClipError
from alignclip_store.errors import StoreError
from worker.outcome import RunStopped


class StorageFailed(OSError):
    """The artifact store answered with an error of its backend's own kind, a lost connection for example."""


@contextmanager
def storage() -> Iterator[None]:
    """Raises `StorageFailed` for errors that only the backend knows; lets through what its callers can tell apart."""
    try:
        yield
    except (OSError, StoreError, AlignClipError, RunStopped):
        raise
    except Exception as error:
        raise StorageFailed(f"{type(error).__name__}: {error}") from error
