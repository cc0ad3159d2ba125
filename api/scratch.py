"""Temporary files of an API process: uploads that arrive, exports, reports. A killed one's go with the next start."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder below `parent` for this process alone, gone after the block; what dead processes left there goes first.

    A process holds the lock of its folder as long as it lives: the kernel drops it however that ends.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent):  # nobody sweeps between the making of the folder and its lock
        sweep(parent)
        folder = Path(mkdtemp(dir=parent))
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove every file and folder that no process holds."""
    for path in parent.iterdir():
        with suppress(OSError):  # another process was quicker, or holds it
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(lock)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
