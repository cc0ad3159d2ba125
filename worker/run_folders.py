"""Run directories on this machine: made for a run, held while it lasts, removed after it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

log = structlog.get_logger()

LOCK_TRIES = 100
LOCK_RETRY_SECONDS = 0.01


@contextlib.contextmanager
def held_folder(path: Path) -> Iterator[None]:
    """Make a run directory; nobody sweeps it inside the block, and it is gone after it.

    What should outlive the run (checkpoints, model, trainer.log) is in the artifact store by then.
    """
    lock = _make_locked(path)
    try:
        yield
    finally:
        _remove(path)
        os.close(lock)


def sweep_run_dirs(runs_location: Path, is_wanted: Callable[[Path], bool] = lambda path: False) -> int:
    """Remove the run directories that killed workers left behind; returns how many.

    A directory whose worker lives is locked by it. The kernel drops the lock when that worker dies, however it dies.
    One that `is_wanted` stays.
    """
    num_removed = 0
    for path in sorted(runs_location.glob("*/run-*")):
        lock = _try_lock(path)
        if lock is not None:
            if not is_wanted(path):
                _remove(path)
                num_removed += 1
            os.close(lock)
    return num_removed


def dead_folders(path: Path) -> list[Path]:
    """The other run directories of the same job whose workers are dead, the newest first."""
    found = []
    for other in path.parent.glob("run-*"):
        lock = _try_lock(other) if other != path else None
        if lock is not None:
            os.close(lock)
            found.append(other)
    return sorted(found, key=lambda folder: folder.stat().st_mtime, reverse=True)


def _make_locked(path: Path) -> int:
    """Make the directory and hold its lock; again if a sweep came between the two."""
    for _ in range(LOCK_TRIES):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # the job's folder was removed as empty
            continue
        lock = _try_lock(path)
        if lock is not None:
            if _is_same(path, lock):
                return lock
            os.close(lock)
        time.sleep(LOCK_RETRY_SECONDS)
    raise OSError(f"{path} is held by another process; two databases may share one ALIGNCLIP_HOME.")


def _try_lock(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        log.warning("run_dir_not_removed", path=str(path))
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # the job's folder, when this was its last run here
