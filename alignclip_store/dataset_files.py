"""The files that a dataset reference leads to, all behind one door: a folder, an archive, one file, a URL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO, BinaryIO, Protocol
from zipfile import is_zipfile

from alignclip_store.archives import (
    CHUNK_BYTES,
    DatasetLimits,
    archive_sizes,
    open_member,
    unpack_archive,
)
from alignclip_store.aside import renamed_when_complete
from alignclip_store.errors import DatasetRejected
from alignclip_store.folders import copy_folder, list_sizes, open_file
from alignclip_store.location import Location
from alignclip_store.tars import TarFiles, is_tar

PARQUET = b"PAR1"
TABLE_SUFFIXES = (".csv", ".jsonl")
FIRST_BYTES = 1 << 16  # in which a table with its images in it shows one


class StoredFiles(Protocol):
    """The files of one dataset. Paths that end in "/" are empty folders."""

    @property
    def sizes(self) -> Mapping[str, int]: ...

    def open(self, path: str, /) -> BinaryIO: ...

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        """Copy them (or those of them that `only` names) below the new folder `target`, whole or not at all.

        `on_file` is called before each file and may raise to stop.
        """

    def locate(self, path: str, /) -> Location | None:
        """Where the trainer may read the file itself; None where only we can."""


class FolderFiles:
    """A folder, through its descriptor."""

    def __init__(self, folder: int, path: Path, limits: DatasetLimits) -> None:
        """`path`: where the folder lay when it was opened."""
        self._folder, self._path, self._limits = folder, path, limits
        self._sizes = list_sizes(folder, limits)

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def open(self, path: str) -> BinaryIO:
        return open_file(self._folder, path)

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        return copy_folder(self._folder, target, self._limits, only=only, on_file=on_file)

    def locate(self, path: str) -> Location:
        return Location(str(self._path / path), 0, self._sizes[path])


class ZipFiles:
    """The files in a zip."""

    def __init__(self, archive: IO[bytes], limits: DatasetLimits) -> None:
        self._archive, self._limits = archive, limits
        self._sizes = archive_sizes(archive, limits)

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def open(self, path: str) -> BinaryIO:
        return open_member(self._archive, path, self._limits)

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        return unpack_archive(self._archive, target, self._limits, only=only, on_file=on_file)

    def locate(self, path: str) -> None:
        """A zip is unpacked by us alone."""


class PackedFiles:
    """The files in a tar of its own: an archive, or one WebDataset shard."""

    def __init__(self, tar: TarFiles, where: str | None) -> None:
        """`where`: the tar's own path or URL for the trainer."""
        self._tar, self._where = tar, where

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._tar.sizes

    def open(self, path: str) -> BinaryIO:
        return self._tar.open(path)

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        return self._tar.fetch(target, only=only, on_file=on_file)

    def locate(self, path: str) -> Location | None:
        member = self._tar.member(path)
        return None if member is None or self._where is None else Location(self._where, *member)


class OneFile:
    """A file that is no archive: a table."""

    def __init__(self, name: str, file: IO[bytes], where: str | None) -> None:
        self._name, self._file, self._where = name, file, where
        self._num_bytes = file.seek(0, os.SEEK_END)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {self._name: self._num_bytes}

    def open(self, path: str) -> BinaryIO:
        return _Kept(self._file)  # type: ignore[return-value]

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        if on_file is not None:
            on_file()
        with renamed_when_complete(target) as aside:
            aside.mkdir()
            with (aside / self._name).open("xb") as copy:
                shutil.copyfileobj(self.open(self._name), copy, CHUNK_BYTES)
        return target

    def locate(self, path: str) -> Location | None:
        return None if self._where is None else Location(self._where, 0, self._num_bytes)


def open_container(name: str, file: IO[bytes], limits: DatasetLimits, where: str | None = None) -> StoredFiles:
    """The files in one file: a zip, a tar, a tar.gz, or a table that holds the images itself (Parquet, JSON Lines).

    `where`: its path or URL for the trainer.

    Raises `DatasetRejected`.
    """
    file.seek(0)
    if file.read(len(PARQUET)) == PARQUET:
        return OneFile(Path(name).name or "images.parquet", file, where)
    if is_tar(file):
        return PackedFiles(TarFiles(file, limits, keep_labels=True), where)
    file.seek(0)
    if name.lower().endswith(TABLE_SUFFIXES) and not is_zipfile(file):
        file.seek(0)
        if name.lower().endswith(".jsonl") and b'"data:image/' in file.read(FIRST_BYTES):
            return OneFile("manifest.jsonl", file, where)
        raise DatasetRejected(
            f"{name!r} is a table alone; pack it as manifest{Path(name).suffix} into one zip with the images it names, "
            "or write each image into its line of a .jsonl as a data URI."
        )
    return ZipFiles(file, limits)


class _Kept:
    """A file that stays open when its reader closes it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.closed = False
        self.seek, self.tell, self.read, self.readline = file.seek, file.tell, file.read, file.readline
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        pass
