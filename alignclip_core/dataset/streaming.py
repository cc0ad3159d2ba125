"""The images of a streamed dataset: fetched when they are needed, kept while there is room. Loads no torch.

Every image is a range of bytes or a row of a Parquet file, so the order of training is free of the order of the
shards. What came from a URL, and each row group that was unpacked, is a file in `RUN_DIR/cache/`; where they would
take more than the listing allows, those go first that were not used for longest.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow

from alignclip_core.dataset.image_table import READ_ROWS, iterate_row_group
from alignclip_core.dataset.listing import listing_file, load_listing
from alignclip_core.dataset.samples import Place
from alignclip_core.errors import DatasetUnreachable, ImageRejected
from alignclip_core.images import ImageLimits

FETCH_TRIES = 5
FETCH_SECONDS = 60.0  # how long a server may keep silent
PAUSE_SECONDS = 1.0  # before the second try; doubled each time
URL_SCHEMES = ("http://", "https://")
UNBOUNDED = 1 << 60
KEPT_SHARE = 0.75  # of the limit that is left when room is made
LOOKS_PER_LIMIT = 16  # how often the folder is measured while one limit's worth of bytes is written
SCHEMA = pyarrow.schema([("image", pyarrow.large_binary())])


def read_place(root: Path, place: Place, limits: ImageLimits) -> bytes:
    """The image at a place of the dataset in `root`. Raises `ImageRejected` and `DatasetUnreachable`."""
    if not place.is_base64:
        return _read_bytes(root, place, limits)
    return decode_text(_read_bytes(root, place, replace(limits, max_bytes=4 * (limits.max_bytes // 3 + 1))))


def decode_text(text: bytes) -> bytes:
    """The image of a data URI. Raises `ImageRejected`."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ImageRejected(f"The data URI is no base64 ({error}).") from error


def _read_bytes(root: Path, place: Place, limits: ImageLimits) -> bytes:
    if not place.location.startswith(URL_SCHEMES):
        place = replace(place, location=str(root / place.location))  # which an absolute path stays
    if place.row_group >= 0:
        return _cache_of(root).row(place)
    if place.num_bytes > limits.max_bytes:
        raise ImageRejected(f"The image has {place.num_bytes:,} bytes; at most {limits.max_bytes:,} are allowed.")
    if place.location.startswith(URL_SCHEMES):
        return _cache_of(root).bytes_of(place)
    try:
        with Path(place.location).open("rb") as file:
            file.seek(place.offset)
            content = file.read(place.num_bytes)
    except OSError as error:
        raise ImageRejected(f"The file cannot be read ({error.strerror}).") from error
    if len(content) != place.num_bytes:
        raise ImageRejected(f"The file ends after {len(content):,} of {place.num_bytes:,} bytes.")
    return content


class StreamCache:
    """A folder of fetched files that holds at most so many bytes, whichever processes write to it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._num_unmeasured = max_bytes  # bytes written since the folder was measured: at first, look
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def bytes_of(self, place: Place) -> bytes:
        """A range of a URL."""
        file = self._file(place, f"{place.offset}-{place.num_bytes}")
        while True:
            if not _touch(file):
                self._keep(file, iter([_fetch(place)]))
            with suppress(FileNotFoundError):  # another process has just made room
                return file.read_bytes()

    def row(self, place: Place) -> bytes:
        """An image of a Parquet file; all of its row group are unpacked at once."""
        file = self._file(place, f"group-{place.row_group}")
        while True:
            if not _touch(file):
                self._keep(file, _unpacked(place))
            with suppress(FileNotFoundError), pyarrow.memory_map(str(file)) as mapped:
                batch = pyarrow.ipc.open_file(mapped).get_batch(place.row // READ_ROWS)
                return bytes(batch.column(0)[place.row % READ_ROWS].as_py())

    def _file(self, place: Place, part: str) -> Path:
        # a presigned URL changes with every run, the object does not
        location = place.location.partition("?")[0]
        return self._folder / hashlib.sha256(f"{location} {part}".encode()).hexdigest()

    def _keep(self, file: Path, pieces: Iterator[bytes]) -> None:
        """Write aside and rename: others see the whole file or none."""
        aside = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}.part")
        try:
            with aside.open("wb") as opened:
                num_bytes = sum(opened.write(piece) for piece in pieces)
            self._make_room(num_bytes)
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, num_bytes: int) -> None:
        with self._lock:
            self._num_unmeasured += num_bytes
            if self._num_unmeasured * LOOKS_PER_LIMIT < self._max_bytes:
                return
            self._num_unmeasured = 0
            found = sorted(_measured(self._folder))
            num_kept = sum(size for _, size, _ in found)
            # measured with what is being written; what others write until the next look is what KEPT_SHARE leaves
            for _, size, path in found:
                if num_kept <= self._max_bytes * KEPT_SHARE:
                    break
                if not path.endswith(".part"):
                    Path(path).unlink(missing_ok=True)
                    num_kept -= size


@lru_cache(maxsize=4)
def _cache_of(root: Path) -> StreamCache:
    """One for each dataset of the process. It stands outside `inputs/`, which nobody writes to after staging."""
    file = listing_file(root)
    max_bytes = load_listing(file).cache_bytes if file.is_file() else None
    return StreamCache(root.parents[1] / "cache" / root.name, max_bytes or UNBOUNDED)


def _measured(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(last use, bytes, path) of each file."""
    with os.scandir(folder) as scan:
        for entry in scan:
            with suppress(FileNotFoundError):
                found = entry.stat()
                yield found.st_mtime, found.st_size, entry.path


def _touch(file: Path) -> bool:
    """Note that the file is used now; False where it is not there."""
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    return True


def _fetch(place: Place) -> bytes:
    last = place.offset + place.num_bytes - 1
    request = urllib.request.Request(place.location, headers={"Range": f"bytes={place.offset}-{last}"})  # noqa: S310
    for number in range(FETCH_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=FETCH_SECONDS) as answer:  # noqa: S310 - http(s), by read_place
                skipped = place.offset if answer.status == 200 else 0  # the server knows no ranges
                content: bytes = answer.read(skipped + place.num_bytes)[skipped:]
            if len(content) == place.num_bytes:
                return content
            reason = f"{len(content)} of {place.num_bytes} bytes"
        except (OSError, ValueError) as error:  # URLError is an OSError
            reason = str(error)
            if isinstance(error, urllib.error.HTTPError) and error.code in (403, 404, 410):
                break
        time.sleep(PAUSE_SECONDS * 2**number)
    raise DatasetUnreachable(f"{place.location.partition('?')[0]} cannot be fetched ({reason}).")


def _unpacked(place: Place) -> Iterator[bytes]:
    """The images of a row group as an Arrow file, in batches of READ_ROWS."""
    sink = _Sink()
    with _opened(place.location) as opened, pyarrow.ipc.new_file(pyarrow.PythonFile(sink, "w"), SCHEMA) as writer:
        images = iterate_row_group(opened, place.location.partition("?")[0], place.row_group)
        while batch := list(islice(images, READ_ROWS)):
            writer.write_batch(pyarrow.record_batch([pyarrow.array(batch, pyarrow.large_binary())], schema=SCHEMA))
            yield sink.take()
    yield sink.take()


@contextmanager
def _opened(location: str) -> Iterator[BinaryIO]:
    try:
        is_url = location.startswith(URL_SCHEMES)
        opened = fsspec.open(location, "rb").open() if is_url else Path(location).open("rb")  # noqa: SIM115
    except OSError as error:
        raise DatasetUnreachable(f"{location.partition('?')[0]} cannot be opened ({error}).") from error
    with opened:
        yield opened


class _Sink:
    """Where Arrow writes: what was written can be taken away."""

    closed = False

    def __init__(self) -> None:
        self._written = bytearray()
        self._num_written = 0

    def write(self, content: bytes) -> int:
        self._written += content
        self._num_written += len(content)
        return len(content)

    def tell(self) -> int:
        return self._num_written

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken
