"""One labelled image, and what a dataset's images are together. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Literal

from alignclip_core.errors import DatasetInvalid

SplitName = Literal["", "train", "validation", "test"]

SPLIT_WORDS = MappingProxyType(
    {
        "train": "train",
        "training": "train",
        "val": "validation",
        "valid": "validation",
        "validation": "validation",
        "dev": "validation",
        "test": "test",
        "testing": "test",
    }
)
"""Words that name a split in manifests, folders and names of shards."""


@dataclass(frozen=True)
class Place:
    """Where the bytes of an image lie when it is no file of its own below the dataset's folder."""

    location: str  # of the file that holds them: a path in the dataset, an absolute path, or an http(s) URL
    offset: int = 0  # of the first byte
    num_bytes: int = 0
    row_group: int = -1  # of a Parquet file, with the row in it; -1: the bytes lie there as they are
    row: int = -1
    is_base64: bool = False  # the bytes there are the image's as text: of a data URI


@dataclass(frozen=True)
class Sample:
    """One labelled image."""

    path: str  # relative to its dataset's folder, with "/"
    class_name: str  # folder name, or the label that a manifest gives; "" where nothing names one
    domain: str = ""  # folder name; "" where the dataset has no domains
    source: str = "dataset"  # the folder below RUN_DIR/inputs that holds it: dataset, validation or test-NAME
    split: SplitName = ""  # "" where the dataset leaves the split to us
    place: Place | None = None  # None: a file of its own


@dataclass(frozen=True)
class DatasetLayout:
    """The classes, domains and images of one dataset."""

    class_names: tuple[str, ...]  # folder names, sorted
    domains: tuple[str, ...]  # folder names, sorted; () without domain folders
    samples: tuple[Sample, ...]  # sorted by path
    ignored: tuple[str, ...] = ()  # files that are no images by their suffix


def layout_of(samples: Iterable[Sample], *, min_classes: int = 2, ignored: Sequence[str] = ()) -> DatasetLayout:
    """The layout of samples that a manifest or shards name. Raises `DatasetInvalid`."""
    ordered = tuple(sorted(samples, key=lambda sample: sample.path))
    class_names = tuple(sorted({sample.class_name for sample in ordered}))
    if len(class_names) < min_classes:
        found = f"one class only, {class_names[0]!r}" if class_names else "no image"
        raise DatasetInvalid(f"The dataset has {found}; at least {min_classes} classes are needed.")
    domains = sorted({sample.domain for sample in ordered})
    return DatasetLayout(class_names, () if domains == [""] else tuple(domains), ordered, tuple(sorted(ignored)))


def split_of_name(path: str) -> SplitName:
    """The split that a shard's folder or name begins with: `train/0.tar`, `data/test-00000-of-00001.parquet`."""
    for part in PurePosixPath(path).parts:
        word = part.split(".")[0].split("-")[0].split("_")[0].lower()
        if word in SPLIT_WORDS:
            return SPLIT_WORDS[word]  # type: ignore[return-value]
    return ""
