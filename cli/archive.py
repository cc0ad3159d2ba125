"""A folder as a zip that is made while it is read: nothing is written to disk, however large the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

CHUNK_BYTES = 2**20


class FolderArchive:
    """The zip of some files of a folder. `on_progress` hears how many bytes of them were read each time."""

    def __init__(self, folder: Path, paths: Sequence[str], on_progress: Callable[[int], None]) -> None:
        self._pieces = _zip_pieces(folder, paths, on_progress)
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes, none at the end; everything that is left for a negative size."""
        if size < 0:
            rest, self._rest = self._rest, b""
            return rest + b"".join(self._pieces)
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


class WatchedFile:
    """An open file that tells how many bytes were read from it."""

    def __init__(self, file: BinaryIO, on_progress: Callable[[int], None]) -> None:
        self._file = file
        self._on_progress = on_progress

    def fileno(self) -> int:
        """Lets the HTTP client find the length."""
        return self._file.fileno()

    def read(self, size: int = -1, /) -> bytes:
        content = self._file.read(size)
        self._on_progress(len(content))
        return content


class _Sink:
    """Where ZipFile writes: it cannot seek, so sizes follow the content, and what was written can be taken away."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, content: bytes, /) -> int:
        self._written += content
        return len(content)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


def _zip_pieces(folder: Path, paths: Sequence[str], on_progress: Callable[[int], None]) -> Iterator[bytes]:
    """Never an empty piece. Images are compressed already, so they are stored as they are."""
    sink = _Sink()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for path in paths:
            entry = ZipInfo.from_file(folder / path, path, strict_timestamps=False)
            with (folder / path).open("rb") as source, archive.open(entry, "w") as target:
                while chunk := source.read(CHUNK_BYTES):
                    target.write(chunk)
                    on_progress(len(chunk))
                    yield sink.take()
    yield sink.take()
