"""Zip archives of strangers: listed and unpacked under limits, nothing in them trusted.

Sizes in a zip are what its maker wrote there, so the bytes that come out are counted while they come. Only plain
files and folders with harmless names are taken; an archive with anything else is refused whole, with the member named.
"""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO
from zipfile import ZipFile, ZipInfo

from alignclip_store.aside import renamed_when_complete
from alignclip_store.errors import DatasetRejected

CHUNK_BYTES = 1 << 20
MAX_NAME_BYTES = 255  # what file systems take
MAX_PATH_BYTES = 1024
MAX_DEPTH = 16
MAX_RATIO = 200  # bytes out per byte in; photographs hardly shrink at all
RATIO_COUNTS_FROM_BYTES = 100 << 20  # a small archive may hold blank pictures
MAX_CONTENTS_BYTES_PER_FILE = 512  # of the table of contents, which is read into memory whole
MAX_MEMBER_BYTES = 256 << 20  # of one that is read into memory
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, ValueError, OverflowError)
"""What `zipfile` raises for archives that were damaged or made to harm.

NotImplementedError is its word for a compression or encryption that it does not know.
"""


@dataclass(frozen=True, kw_only=True)
class DatasetLimits:
    """How much one dataset may hold after unpacking."""

    max_bytes: int
    max_files: int


class ByteBudget:
    """Counts bytes while they are written, against what a dataset may hold."""

    def __init__(self, max_bytes: int, reason: str) -> None:
        self._left = max_bytes
        self._reason = reason

    def spend(self, num_bytes: int, name: str) -> None:
        """Raises `DatasetRejected`, naming the file, when nothing is left."""
        self._left -= num_bytes
        if self._left < 0:
            raise DatasetRejected(f"{self._reason}; the limit was reached in {name!r}.")


def archive_sizes(archive: IO[bytes], limits: DatasetLimits) -> dict[str, int]:
    """The archive's files and, with a "/" at their ends, its folders, as paths below its top, with the bytes that each
    says to have; nothing is unpacked.

    Raises `DatasetRejected` for what `unpack_archive` would refuse by its names and stated sizes.
    """
    with _opened(archive, limits) as opened:
        return {member.filename: member.file_size for member in _checked_members(opened, limits)}


def open_member(archive: IO[bytes], name: str, limits: DatasetLimits) -> BytesIO:
    """One file of the archive in memory, such as a manifest. Raises `DatasetRejected` for one that is too long."""
    with _opened(archive, limits) as opened:
        member = next(each for each in _checked_members(opened, limits) if each.filename == name)
        content = BytesIO()
        budget = ByteBudget(MAX_MEMBER_BYTES, f"A file that is read in one piece may have {MAX_MEMBER_BYTES} bytes")
        for chunk in _chunks(opened, member):
            budget.spend(len(chunk), name)
            content.write(chunk)
    content.seek(0)
    return content


def unpack_archive(
    archive: IO[bytes],
    target: Path,
    limits: DatasetLimits,
    *,
    only: Collection[str] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Path:
    """Write the archive's files and folders below the new folder `target`, which appears when all of them are there.

    `only`: leave out what it does not name. `on_file` is called before each file and may raise to stop.
    Raises `DatasetRejected`, naming the member, and leaves nothing behind.
    """
    with _opened(archive, limits) as opened, renamed_when_complete(target) as aside:
        aside.mkdir()
        budget = _budget(archive, limits)
        for member in _checked_members(opened, limits):
            if only is not None and member.filename not in only:
                continue
            if on_file is not None:
                on_file()
            _write_member(opened, member, aside, budget)
    return target


def check_path(name: str) -> None:
    """Raises `DatasetRejected` unless `name` is a path that stays below its top and that any system can hold."""
    parts = name.split("/")
    if "\\" in name or name[1:2] == ":" or not all(parts) or {".", ".."} & set(parts):
        raise DatasetRejected(f"The name {name[:200]!r} leads out of its folder; wanted names such as cat/1.jpg.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise DatasetRejected(f"The name {name[:200]!r} has a character that no name may have; rename the file.")
    longest = max(len(part.encode()) for part in parts)
    if longest > MAX_NAME_BYTES or len(name.encode()) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        limits = f"{MAX_NAME_BYTES} bytes in a name, {MAX_PATH_BYTES} in all, {MAX_DEPTH} folders"
        raise DatasetRejected(f"The name {name[:80]!r}... is too long; at most {limits}.")


def _checked_members(archive: ZipFile, limits: DatasetLimits) -> list[ZipInfo]:
    """All members, each found harmless."""
    members = archive.infolist()
    if len(members) > limits.max_files:
        raise _too_many(limits)
    stated_bytes = sum(member.file_size for member in members)
    if stated_bytes > limits.max_bytes:
        wanted = f"at most {limits.max_bytes} are allowed"
        raise DatasetRejected(f"The archive says that it unpacks to {stated_bytes} bytes; {wanted}.")
    for member in members:
        check_path(member.orig_filename.removesuffix("/"))
        _check_kind(member)
    check_distinct([member.filename for member in members])
    return members


def _check_kind(member: ZipInfo) -> None:
    if member.header_offset < 0:
        raise _damaged(member.filename, "it lies before the archive's start")
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DatasetRejected(f"{member.filename!r} is a link or a device; wanted files and folders alone.")
    if member.flag_bits & 0x1:
        raise DatasetRejected(f"{member.filename!r} is encrypted; pack it without a password.")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DatasetRejected(f"{member.filename!r} is packed in an unusual way; wanted a plain zip ('deflate').")


def check_distinct(names: list[str]) -> None:
    """Raises `DatasetRejected` for a file that stands there twice, or as a folder, too."""
    files: set[str] = set()
    for name in names:
        if name in files:
            raise DatasetRejected(f"The archive has {name!r} twice.")
        if not name.endswith("/"):
            files.add(name)
    for folder in {name.rpartition("/")[0] for name in names}:
        while folder:
            if folder in files:
                raise DatasetRejected(f"The archive has {folder!r} both as a file and as a folder.")
            folder = folder.rpartition("/")[0]


def _write_member(archive: ZipFile, member: ZipInfo, target: Path, budget: ByteBudget) -> None:
    path = target / member.filename
    if member.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for chunk in _chunks(archive, member):
            budget.spend(len(chunk), member.filename)
            file.write(chunk)
        if file.tell() != member.file_size:
            raise _damaged(member.filename, f"{file.tell()} bytes instead of {member.file_size}")


def _chunks(archive: ZipFile, member: ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(member) as opened:
            while chunk := opened.read(CHUNK_BYTES):
                yield chunk
    except UNREADABLE as error:
        raise _damaged(member.filename, str(error)) from error


def _budget(archive: IO[bytes], limits: DatasetLimits) -> ByteBudget:
    by_ratio = max(archive.seek(0, os.SEEK_END) * MAX_RATIO, RATIO_COUNTS_FROM_BYTES)
    if by_ratio < limits.max_bytes:
        return ByteBudget(by_ratio, f"The archive unpacks to more than {MAX_RATIO} times its size")
    return ByteBudget(limits.max_bytes, f"The archive unpacks to more than {limits.max_bytes} bytes")


class _BoundedReads:
    """A file that refuses to be read in one piece larger than an archive's table of contents may be."""

    def __init__(self, file: IO[bytes], limits: DatasetLimits) -> None:
        self._file = file
        self._limits = limits
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > max(self._limits.max_files * MAX_CONTENTS_BYTES_PER_FILE, CHUNK_BYTES):
            raise _too_many(self._limits)
        return self._file.read(size)


@contextmanager
def _opened(archive: IO[bytes], limits: DatasetLimits) -> Iterator[ZipFile]:
    try:
        if not zipfile.is_zipfile(archive):
            raise DatasetRejected("The file is not a zip archive; wanted a .zip of class/image or domain/class/image.")
        opened = ZipFile(_BoundedReads(archive, limits))
    except UNREADABLE as error:
        raise DatasetRejected(f"The zip archive cannot be read ({error}); pack it anew.") from error
    with opened:
        yield opened


def _damaged(name: str, reason: str) -> DatasetRejected:
    return DatasetRejected(f"The archive is damaged at {name!r} ({reason}); pack it anew.")


def _too_many(limits: DatasetLimits) -> DatasetRejected:
    return DatasetRejected(f"The archive has more than {limits.max_files} members; that is the limit.")
