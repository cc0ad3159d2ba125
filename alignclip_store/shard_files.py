"""WebDataset shards among the files of a dataset: what is in them are files as well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from alignclip_store.archives import CHUNK_BYTES, MAX_MEMBER_BYTES, ByteBudget, DatasetLimits
from alignclip_store.aside import renamed_when_complete
from alignclip_store.dataset_files import StoredFiles
from alignclip_store.errors import DatasetRejected
from alignclip_store.location import Location
from alignclip_store.references import SHARD_SUFFIX
from alignclip_store.tars import TarFiles


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
