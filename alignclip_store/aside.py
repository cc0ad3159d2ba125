"""Write aside, then rename: what has its name is complete."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def renamed_when_complete(path: Path) -> Iterator[Path]:
    """A free path beside `path` for a file or folder that takes its place when the block ends.

    When the block raises, what was written is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        yield aside
        if path.is_dir() and aside.is_dir():  # a folder cannot be renamed over another
            old = aside.with_suffix(".old")
            path.rename(old)
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.replace(path)
    finally:
        _remove(aside)


def sync(path: Path) -> None:
    """Wait until the disk has the file, or every file of the folder."""
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(root: Path, age_seconds: float) -> int:
    """Remove what was written aside below `root` and never renamed, when it is so old; returns how many."""
    num_removed = 0
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            if not (name.startswith(".") and name.endswith((".part", ".old"))):
                continue
            path = Path(folder) / name
            with suppress(FileNotFoundError):  # its writer has finished
                if time.time() - path.lstat().st_mtime > age_seconds:
                    _remove(path)
                    num_removed += 1
        folders[:] = [name for name in folders if not name.endswith((".part", ".old"))]
    return num_removed


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
