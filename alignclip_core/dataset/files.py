"""What the readers of datasets need of the files, wherever they lie. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol


class DatasetFiles(Protocol):
    """The files of one dataset: of a folder, an archive, a bucket.

    Members of WebDataset shards are files, too: `shard-0.tar/0001.jpg`.
    """

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of every file by its relative path; a path that ends in "/" is an empty folder."""

    def open(self, path: str, /) -> BinaryIO:
        """The file for reading; it can seek."""


class LocalFiles:
    """The files of a folder of our own; sizes are looked up one by one, when they are asked for."""

    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        """`paths`: as `list_folder` gives them."""
        self._folder = folder
        self.sizes: Mapping[str, int] = _Sizes(folder, paths)

    def open(self, path: str) -> BinaryIO:
        return (self._folder / path).open("rb")


class _Sizes(Mapping[str, int]):
    def __init__(self, folder: Path, paths: Sequence[str]) -> None:
        self._folder = folder
        self._paths = dict.fromkeys(paths)

    def __getitem__(self, path: str) -> int:
        if path not in self._paths:
            raise KeyError(path)
        return 0 if path.endswith("/") else (self._folder / path).stat().st_size

    def __contains__(self, path: object) -> bool:
        return path in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
