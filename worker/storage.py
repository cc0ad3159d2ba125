"""What lies between a run and the artifact store: the size of a folder, one kind of error for all backends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alignclip_core.errors import AlignClipError
from alignclip_store.errors import StoreError
from worker.outcome import RunStopped


class StorageFailed(OSError):
    """The artifact store answered with an error of its backend's own kind, a lost connection for example."""


def folder_bytes(folder: Path) -> int:
    """What the files in a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def storage() -> Iterator[None]:
    """Raises `StorageFailed` for errors that only the backend knows; lets through what its callers can tell apart."""
    try:
        yield
    except (OSError, StoreError, AlignClipError, RunStopped):
        raise
    except Exception as error:
        raise StorageFailed(f"{type(error).__name__}: {error}") from error
