"""The files that a dataset reference leads to, all behind one door: a folder, an archive, one file, a URL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, Protocol
from zipfile import is_zipfile

from alignclip_store.archives import (
    CHUNK_BYTES,
    MAX_MEMBER_BYTES,
    ByteBudget,
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

SHARD_SUFFIX = ".tar"
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


class WithShards:
    """Files among which are shards, `*.tar`: their members are files, too, below the shard's name."""

    def __init__(self, files: _MayHoldShards, limits: DatasetLimits, stack: ExitStack) -> None:
        """`stack` closes the shards."""
        self._files, self._limits = files, limits
        self._shards: dict[str, TarFiles] = {}
        self._places: dict[str, Location | None] = {}  # of the shards: to sign a URL takes time
        self._sizes: dict[str, int] = {}
        num_bytes_held = 0
        for name, size in files.sizes.items():
            if not name.lower().endswith(SHARD_SUFFIX):
                self._sizes[name] = size
                continue
            opened = stack.enter_context(files.open(name))
            num_bytes_held += size if isinstance(opened, BytesIO) else 0
            if num_bytes_held > MAX_MEMBER_BYTES:
                raise DatasetRejected(
                    f"The shards in the archive have more than {MAX_MEMBER_BYTES:,} bytes; pack them into a tar "
                    "without compression."
                )
            try:
                self._shards[name] = TarFiles(opened, limits, keep_labels=True)
            except DatasetRejected as error:
                raise DatasetRejected(f"{name}: {error.message}") from error
            self._sizes |= {f"{name}/{member}": size for member, size in self._shards[name].sizes.items()}
            if len(self._sizes) > limits.max_files:
                raise DatasetRejected(f"The shards hold more than {limits.max_files} files; that is the limit.")

    @property
    def sizes(self) -> Mapping[str, int]:
        return self._sizes

    def open(self, path: str) -> BinaryIO:
        shard, member = self._split(path)
        return self._files.open(path) if shard is None else self._shards[shard].open(member)

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        budget = ByteBudget(self._limits.max_bytes, f"The dataset holds more than {self._limits.max_bytes} bytes")
        with renamed_when_complete(target) as aside:
            aside.mkdir()
            for path in self._sizes:
                if (only is not None and path not in only) or path.endswith("/"):
                    continue
                if on_file is not None:
                    on_file()
                (aside / path).parent.mkdir(parents=True, exist_ok=True)
                with self.open(path) as source, (aside / path).open("xb") as copy:
                    while chunk := source.read(CHUNK_BYTES):
                        budget.spend(len(chunk), path)
                        copy.write(chunk)
        return target

    def locate(self, path: str) -> Location | None:
        shard, name = self._split(path)
        if shard is None:
            return self._files.locate(path)
        if shard not in self._places:
            self._places[shard] = self._files.locate(shard)
        place = self._places[shard]
        if place is None:
            return None
        member = self._shards[shard].member(name)
        return None if member is None else Location(place.where, *member)

    def _split(self, path: str) -> tuple[str | None, str]:
        """(shard, member) of a path, or (None, path)."""
        head, separator, member = path.partition(f"{SHARD_SUFFIX}/")
        shard = head + SHARD_SUFFIX
        return (shard, member) if separator and shard in self._shards else (None, path)


class _MayHoldShards(Protocol):
    @property
    def sizes(self) -> Mapping[str, int]: ...

    def open(self, path: str, /) -> BinaryIO: ...

    def locate(self, path: str, /) -> Location | None: ...


@contextmanager
def with_shards(files: StoredFiles, limits: DatasetLimits) -> Iterator[StoredFiles]:
    """The files with the members of their shards, where there are any."""
    if not any(name.lower().endswith(SHARD_SUFFIX) for name in files.sizes):
        yield files
        return
    with ExitStack() as stack:
        yield WithShards(files, limits, stack)


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
