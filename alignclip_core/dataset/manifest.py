"""Manifests: a table with the columns image, label and, if wanted, domain and split. CSV, JSON Lines or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import pyarrow
from pyarrow import parquet

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.rows import (
    DATA_URI,
    IMAGE_COLUMNS,
    MAX_JSON_LINE_BYTES,
    MAX_LINE_BYTES,
    ManifestRows,
    image_column,
    refuse,
)
from alignclip_core.dataset.samples import DatasetLayout, Place, layout_of

STEMS = ("manifest", "metadata")  # the second is Hugging Face's
SUFFIXES = (".csv", ".jsonl", ".parquet")
BATCH_ROWS = 4096
COLUMNS = ("image", "file_name", "label", "domain", "split")


def find_manifest(names: Mapping[str, int]) -> str | None:
    """The manifest of a dataset: the one that lies highest, if there is any."""
    found = [name for name in names if name.lower().endswith(SUFFIXES) and PurePosixPath(name).stem.lower() in STEMS]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def read_manifest(files: DatasetFiles, manifest: str, *, min_classes: int = 2, url: str | None = None) -> DatasetLayout:
    """The samples that the manifest names. Raises `DatasetInvalid` with its name and the line.

    `url`: where the files lie, if that has one.
    """
    folder = manifest.removesuffix(PurePosixPath(manifest).name)
    rows = ManifestRows(folder, files.sizes, url)
    read = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    samples = []
    with files.open(manifest) as opened:
        for place, row in read[PurePosixPath(manifest).suffix.lower()](opened, manifest):
            samples.append(rows.sample(row, image_column(row.keys(), place), place))
    named = {sample.path for sample in samples}
    ignored = [name for name in files.sizes if name not in named and name != manifest and not name.endswith("/")]
    return layout_of(samples, min_classes=min_classes, ignored=ignored)


def _read_csv(opened: BinaryIO, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = _Lines(opened, name)
    reader = csv.reader(lines, strict=True)
    try:
        header = [column.strip() for column in next(reader, [])]
        image_column(header, f"{name}, line 1")
        for values in reader:
            place = f"{name}, line {lines.number}"
            if values and len(values) != len(header):
                refuse(place, f"the row has {len(values)} values, the header {len(header)} columns.")
            if values:
                yield place, dict(zip(header, values, strict=True))
    except csv.Error as error:
        refuse(f"{name}, line {lines.number}", f"it is no CSV ({error}).")


def _read_jsonl(opened: BinaryIO, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    lines = _Lines(opened, name, MAX_JSON_LINE_BYTES)
    for line in lines:
        place = f"{name}, line {lines.number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            refuse(place, f"it is no JSON ({error}).")
        if not isinstance(row, dict):
            refuse(place, 'wanted an object such as {"image": "cat/1.jpg", "label": "cat"}.')
        embedded = {
            column: _place_of(row[column], lines, name, place)
            for column in IMAGE_COLUMNS
            if str(row.get(column)).startswith("data:")
        }
        yield place, row | embedded


def _place_of(uri: str, lines: _Lines, name: str, place: str) -> Place:
    """Where in the file the image of a data URI stands."""
    found = DATA_URI.fullmatch(uri)
    if found is None:
        refuse(place, f"image {uri[:40]!r}... is no data URI of an image; wanted data:image/png;base64,...")
    offset = lines.raw.find(f"base64,{found[1]}".encode())
    if offset < 0:
        refuse(place, "the data URI of its image is written with escapes; write its characters as they are.")
    return Place(name, lines.offset + offset + len("base64,"), len(found[1]), is_base64=True)


def _read_parquet(opened: BinaryIO, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = parquet.ParquetFile(opened)
        columns = [column for column in COLUMNS if column in table.schema_arrow.names]
        image_column(columns, name)
        number = 0
        for batch in table.iter_batches(BATCH_ROWS, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{name}, row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        refuse(name, f"it is no readable Parquet file ({error}).")


class _Lines:
    """The lines of a file as text. Raises `DatasetInvalid` for one that is no UTF-8 or too long."""

    def __init__(self, opened: BinaryIO, name: str, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._opened, self._name, self._max_bytes = opened, name, max_bytes
        self.number = 0
        self.raw = b""  # the line as it stands there
        self.offset = 0  # of its first byte

    def __iter__(self) -> Iterator[str]:
        while line := self._opened.readline(self._max_bytes + 1):
            self.number += 1
            self.offset += len(self.raw)
            self.raw = line
            place = f"{self._name}, line {self.number}"
            if len(line) > self._max_bytes:
                refuse(place, f"it is longer than {self._max_bytes:,} bytes.")
            try:
                yield line.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                refuse(place, f"it is no UTF-8 (byte {error.start}); save the file as UTF-8.")
