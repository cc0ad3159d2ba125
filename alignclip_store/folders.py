"""Folders that others may change while we read them: walked and copied through descriptors, never through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from alignclip_store.archives import CHUNK_BYTES, ByteBudget, DatasetLimits, check_path
from alignclip_store.aside import renamed_when_complete
from alignclip_store.errors import DatasetRejected

# O_NONBLOCK: a pipe must not hold us up before we see that it is one
READ_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def open_below(root: Path, place: PurePosixPath) -> int:
    """A descriptor of the folder or plain file at `root/place`, reached from the root one folder at a time."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for part in place.parts:
        above = descriptor
        try:
            descriptor = _open(part, above, str(place))
        finally:
            os.close(above)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        os.close(descriptor)
        raise DatasetRejected(f"{place.name!r} is neither a folder nor a file.")
    return descriptor


def list_folder(folder: int, limits: DatasetLimits) -> list[str]:
    """The folder's files as relative paths, and its empty folders with a "/" at their ends; nothing hidden.

    Raises `DatasetRejected` for links and devices, and when there are too many files.
    """
    return [path for path, _ in _walk(folder, limits)]


def list_sizes(folder: int, limits: DatasetLimits) -> dict[str, int]:
    """Bytes of each file that `list_folder` lists; 0 for its empty folders."""
    sizes = {}
    for path, parent in _walk(folder, limits):
        name = PurePosixPath(path).name
        sizes[path] = 0 if path.endswith("/") else os.stat(name, dir_fd=parent, follow_symlinks=False).st_size
    return sizes


def open_file(folder: int, path: str) -> BinaryIO:
    """A plain file below the folder, reached through no link."""
    descriptor = os.dup(folder)
    for part in PurePosixPath(path).parts:
        above = descriptor
        try:
            descriptor = _open(part, above, path)
        finally:
            os.close(above)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DatasetRejected(f"{path!r} is no plain file.")
    return os.fdopen(descriptor, "rb")


def copy_folder(
    folder: int,
    target: Path,
    limits: DatasetLimits,
    *,
    only: Collection[str] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Path:
    """Copy what `list_folder` lists to the new folder `target`, which appears when all of it is there."""
    budget = ByteBudget(limits.max_bytes, f"The folder holds more than {limits.max_bytes} bytes")
    with renamed_when_complete(target) as aside:
        aside.mkdir()
        for path, parent in _walk(folder, limits):
            if only is not None and path not in only:
                continue
            if on_file is not None:
                on_file()
            if path.endswith("/"):
                (aside / path).mkdir(parents=True)
                continue
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            _copy_file(_open(PurePosixPath(path).name, parent, path), aside / path, path, budget)
    return target


def _copy_file(descriptor: int, target: Path, path: str, budget: ByteBudget) -> None:
    with os.fdopen(descriptor, "rb") as source, target.open("xb") as copy:
        while chunk := source.read(CHUNK_BYTES):
            budget.spend(len(chunk), path)
            copy.write(chunk)


def _walk(folder: int, limits: DatasetLimits) -> Iterator[tuple[str, int]]:
    """(relative path, descriptor of the folder it lies in) of every file and every empty folder."""
    for index, found in enumerate(_walk_below(folder, "")):
        if index == limits.max_files:
            raise DatasetRejected(f"The folder has more than {limits.max_files} files; that is the limit.")
        yield found


def _walk_below(folder: int, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as scan:
        entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    if not entries and prefix:
        yield prefix, folder
    for entry in entries:
        path = prefix + entry.name
        check_path(path)
        if entry.is_file(follow_symlinks=False):
            yield path, folder
        elif entry.is_dir(follow_symlinks=False):
            child = _open(entry.name, folder, path)
            try:
                yield from _walk_below(child, f"{path}/")
            finally:
                os.close(child)
        else:
            raise DatasetRejected(f"{path!r} is a link or a device; put the file itself there.")


def _open(name: str, folder: int, path: str) -> int:
    try:
        return os.open(name, READ_NO_LINK, dir_fd=folder)
    except OSError as error:
        raise DatasetRejected(f"{path!r} cannot be read ({error.strerror}).") from error
