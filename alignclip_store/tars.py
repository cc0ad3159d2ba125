"""Tar archives of strangers: like zips, listed and unpacked under limits, nothing in them trusted."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tarfile import TarFile, TarInfo
from typing import IO, BinaryIO, NamedTuple, cast

from alignclip_store.archives import (
    CHUNK_BYTES,
    MAX_MEMBER_BYTES,
    MAX_RATIO,
    RATIO_COUNTS_FROM_BYTES,
    ByteBudget,
    DatasetLimits,
    check_distinct,
    check_path,
)
from alignclip_store.aside import renamed_when_complete
from alignclip_store.errors import DatasetRejected

GZIP = b"\x1f\x8b"
MAX_HEADER_BYTES = 1 << 20  # of a long name or a table of attributes: it is read into memory whole
MAX_KEPT_BYTES = 1 << 16  # of a label, kept while its shard is gone through
LABEL_SUFFIXES = (".cls", ".txt", ".json")
UNREADABLE = (tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError, RecursionError)
"""What `tarfile` raises for archives that were damaged or made to harm."""


class Member(NamedTuple):
    """A file in a tar."""

    offset: int  # of its first byte in the tar; without meaning where that is compressed
    num_bytes: int


class TarFiles:
    """The files in a tar or tar.gz: all its members are harmless, or it is refused with the member named."""

    def __init__(self, archive: IO[bytes], limits: DatasetLimits, *, keep_labels: bool = False) -> None:
        """`keep_labels`: remember the small labels of a shard, where a second look at each would cost a request.

        Raises `DatasetRejected`.
        """
        self._archive = archive
        self._limits = limits
        archive.seek(0)
        self.is_compressed = archive.read(2) == GZIP
        self._max_bytes = limits.max_bytes
        if self.is_compressed:
            by_ratio = max(archive.seek(0, os.SEEK_END) * MAX_RATIO, RATIO_COUNTS_FROM_BYTES)
            self._max_bytes = min(limits.max_bytes, by_ratio)
        self._labels: dict[str, bytes] = {}
        self._members: dict[str, Member] = {}
        with self._opened() as tar:
            for name, info in self._checked(tar):
                self._members[name] = Member(info.offset_data, info.size)
                if keep_labels and name.endswith(LABEL_SUFFIXES) and info.size <= MAX_KEPT_BYTES:
                    self._labels[name] = _content(tar, info)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of every file; a name that ends in "/" is a folder."""
        return {name: member.num_bytes for name, member in self._members.items()}

    def open(self, path: str) -> BinaryIO:
        """A member. In a compressed tar it is looked for from the beginning and held in memory."""
        if path in self._labels:
            return BytesIO(self._labels[path])
        if not self.is_compressed:
            return cast(BinaryIO, Part(self._archive, self._members[path]))
        with self._opened() as tar:
            for name, info in self._checked(tar):
                if name == path and info.size > MAX_MEMBER_BYTES:
                    raise DatasetRejected(
                        f"{name!r} has {info.size:,} bytes; in a packed tar a file that is read in one piece may have "
                        f"{MAX_MEMBER_BYTES:,}: send the tar without gzip."
                    )
                if name == path:
                    return BytesIO(_content(tar, info))
        raise KeyError(path)

    def member(self, path: str) -> Member | None:
        """Where a member lies in the tar; None where that is compressed."""
        return None if self.is_compressed else self._members[path]

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        """Write the files and folders below the new folder `target`, which appears when all of them are there."""
        with self._opened() as tar, renamed_when_complete(target) as aside:
            aside.mkdir()
            budget = ByteBudget(
                self._limits.max_bytes, f"The archive unpacks to more than {self._limits.max_bytes} bytes"
            )
            for name, info in self._checked(tar):
                if only is not None and name not in only:
                    continue
                if on_file is not None:
                    on_file()
                if info.isdir():
                    (aside / name).mkdir(parents=True, exist_ok=True)
                    continue
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                with (aside / name).open("xb") as file:
                    for chunk in _chunks(tar, info):
                        budget.spend(len(chunk), name)
                        file.write(chunk)
        return target

    def _checked(self, tar: TarFile) -> Iterator[tuple[str, TarInfo]]:
        """(path, member) of all files and folders, each found harmless before it is given."""
        num_left = self._max_bytes
        names: set[str] = set()
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep them all
            name = _name(info)
            if not name:
                continue
            check_path(name.removesuffix("/"))
            num_left -= info.size
            if len(names) >= self._limits.max_files:
                raise DatasetRejected(f"The archive has more than {self._limits.max_files} members; that is the limit.")
            if num_left < 0:
                raise DatasetRejected(
                    f"The archive unpacks to more than is allowed; the limit was reached in {name!r}."
                )
            if name in names and not name.endswith("/"):
                raise DatasetRejected(f"The archive has {name!r} twice.")
            names.add(name)
            yield name, info
        check_distinct(sorted(names))

    @contextmanager
    def _opened(self) -> Iterator[TarFile]:
        try:
            self._archive.seek(0)
            mode = "r|gz" if self.is_compressed else "r:"
            with tarfile.open(fileobj=self._archive, mode=mode, tarinfo=_BoundedHeader) as tar:  # type: ignore[call-overload]
                yield tar
        except UNREADABLE as error:
            raise DatasetRejected(f"The tar archive cannot be read ({error}); pack it anew.") from error


class Part:
    """Some bytes of a file as a file of its own, which can seek."""

    def __init__(self, file: IO[bytes], member: Member) -> None:
        self._file = file
        self._member = member
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = max(self._member.num_bytes - self._at, 0)
        self._file.seek(self._member.offset + self._at)
        content = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content

    def readline(self, size: int = -1) -> bytes:
        at, content = self._at, self.read(CHUNK_BYTES + 1 if size < 0 else size)
        line = content[: content.find(b"\n") + 1] or content
        self._at = at + len(line)
        return line

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.num_bytes}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    @property
    def closed(self) -> bool:
        return False

    def close(self) -> None:
        """The file itself stays open for the others."""

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BoundedHeader(TarInfo):
    """A header whose own contents may not be longer than we hold in memory."""

    def _proc_member(self, tar: TarFile) -> TarInfo:
        is_plain = self.type in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE)
        if not is_plain and not 0 <= self.size <= MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {self.size} bytes at {self.name[:200]!r}")
        return super()._proc_member(tar)  # type: ignore[misc, no-any-return]


def is_tar(file: IO[bytes]) -> bool:
    """Whether the file begins like a tar, plain or gzipped."""
    file.seek(0)
    head = file.read(512)
    return head[257:262] == b"ustar" or head[:2] == GZIP


def _name(info: TarInfo) -> str:
    """The member's path, with "/" at the end of a folder's; "" for the top itself. Raises for links and devices."""
    if info.size < 0:
        raise DatasetRejected(f"The archive is damaged at {info.name[:200]!r} ({info.size} bytes); pack it anew.")
    if not (info.isreg() or info.isdir()) or info.sparse is not None:
        raise DatasetRejected(f"{info.name[:200]!r} is a link or a device; wanted files and folders alone.")
    name = info.name.removeprefix("./")
    if name in ("", "."):
        return ""
    return f"{name}/" if info.isdir() else name


def _content(tar: TarFile, info: TarInfo) -> bytes:
    return b"".join(_chunks(tar, info))


def _chunks(tar: TarFile, info: TarInfo) -> Iterator[bytes]:
    file = tar.extractfile(info)
    assert file is not None
    num_read = 0
    while chunk := file.read(CHUNK_BYTES):
        num_read += len(chunk)
        yield chunk
    if num_read != info.size:
        raise DatasetRejected(
            f"The archive is damaged at {info.name!r} ({num_read} bytes of {info.size}); pack it anew."
        )
