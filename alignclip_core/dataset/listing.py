"""dataset.json: the list of a staged dataset's images, where its folders do not say all. Loads no torch.

It stands beside `RUN_DIR/inputs/dataset/`. An image lies in that folder under its path or at its place: a row of a
Parquet file there or, where the dataset is streamed, elsewhere, as so many bytes of a file or URL.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from alignclip_core.dataset.files import LocalFiles
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.reading import is_plain, read_dataset
from alignclip_core.dataset.samples import DatasetLayout, Place, Sample, layout_of
from alignclip_core.errors import DatasetInvalid
from alignclip_core.run_dir import write_file

FORMAT_VERSION = 2
COLUMNS = (
    "path", "class_name", "domain", "split", "location", "offset", "num_bytes", "row_group", "row", "is_base64",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """Content of a dataset.json."""

    layout: DatasetLayout
    cache_bytes: int | None = None  # how much of what is fetched or unpacked may lie on the disk at once


def listing_file(folder: Path) -> Path:
    """Where the list of the dataset in this folder stands."""
    return folder.with_suffix(".json")


def read_staged(folder: Path, *, without: Collection[str] = (), min_classes: int = 2) -> DatasetLayout:
    """The dataset of a run directory: by its list, or by what lies there where it has none.

    Images whose paths are in `without` are left out. Raises `DatasetInvalid`.
    """
    if listing_file(folder).is_file():
        layout = load_listing(listing_file(folder)).layout
        return layout_of(_but(layout, without), min_classes=min_classes, ignored=layout.ignored)
    return read_folder(folder, without=without, min_classes=min_classes)


def read_folder(
    folder: Path,
    *,
    manifest: str | None = None,
    url: str | None = None,
    without: Collection[str] = (),
    min_classes: int = 2,
) -> DatasetLayout:
    """The dataset in a folder of our own, whatever form it has, but for the images in `without`.

    `manifest`: the file that lists its images, where none does it by its name. `url`: where the files came from.
    """
    files = LocalFiles(folder, list_folder(folder))
    layout = read_dataset(files, manifest=manifest, min_classes=min_classes, url=url)
    if not without:
        return layout
    if is_plain(layout, files):
        return read_layout((path for path in files.sizes if path not in without), min_classes=min_classes)
    return layout_of(_but(layout, without), min_classes=min_classes, ignored=layout.ignored)


@dataclass(frozen=True)
class DatasetFolder:
    """A dataset whose files lie in a folder of our own."""

    folder: Path
    manifest: str | None = None  # as `read_folder` takes it
    url: str | None = None

    def read(self, *, min_classes: int = 2) -> DatasetLayout:
        """Its layout. Raises `DatasetInvalid`."""
        return read_folder(self.folder, manifest=self.manifest, url=self.url, min_classes=min_classes)


def leave_out(folder: Path, paths: Collection[str]) -> None:
    """Take images out of a staged dataset for good."""
    file = listing_file(folder)
    if file.is_file():
        listing = load_listing(file)
        save_listing(file, replace(listing, layout=layout_of(_but(listing.layout, paths), min_classes=1)))
        return
    for path in paths:
        (folder / path).unlink()


def _but(layout: DatasetLayout, paths: Collection[str]) -> list[Sample]:
    return [sample for sample in layout.samples if sample.path not in paths]


def save_listing(file: Path, listing: Listing) -> None:
    """Write aside, fsync, rename."""
    locations = sorted({sample.place.location for sample in listing.layout.samples if sample.place is not None})
    numbers = {location: number for number, location in enumerate(locations)}
    content = {
        "format_version": FORMAT_VERSION,
        "cache_bytes": listing.cache_bytes,
        "locations": locations,
        "columns": COLUMNS,
        "samples": [_to_row(sample, numbers) for sample in listing.layout.samples],
    }
    write_file(file, json.dumps(content).encode())
    load_listing.cache_clear()


@lru_cache(maxsize=4)
def load_listing(file: Path) -> Listing:
    """Raises `DatasetInvalid` for what `save_listing` did not write."""
    try:
        content = json.loads(file.read_bytes())
        if content["format_version"] != FORMAT_VERSION or tuple(content["columns"]) != COLUMNS:
            raise ValueError(f"format {content['format_version']}, wanted {FORMAT_VERSION}")
        samples = [_from_row(row, content["locations"]) for row in content["samples"]]
        return Listing(layout_of(samples, min_classes=1), content["cache_bytes"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DatasetInvalid(f"{file.name} is no list of images ({error}).") from error


def _to_row(sample: Sample, numbers: dict[str, int]) -> list[Any]:
    head = [sample.path, sample.class_name, sample.domain, sample.split]
    place = sample.place
    if place is None:
        return head
    where = (place.offset, place.num_bytes, place.row_group, place.row, place.is_base64)
    return [*head, numbers[place.location], *where]


def _from_row(row: list[Any], locations: list[str]) -> Sample:
    path, class_name, domain, split = row[:4]
    place = Place(locations[row[4]], *row[5:]) if len(row) > 4 else None
    return Sample(path, class_name, domain, split=split, place=place)
