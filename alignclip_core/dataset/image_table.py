"""Parquet files that hold the images themselves, as `datasets` writes them. Loads no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow
from pyarrow import parquet

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.rows import LABEL, read_split, read_text, refuse
from alignclip_core.dataset.samples import DatasetLayout, Place, Sample, layout_of, split_of_name
from alignclip_core.errors import ImageRejected

SUFFIX = ".parquet"
READ_ROWS = 32  # images in memory at once
MAX_ROWS = 20_000_000  # of one file: a few bytes can say that a value repeats any number of times
MAX_GROUP_BYTES = 4 << 30  # of a row group's images


def has_images(opened: BinaryIO, name: str) -> bool:
    """Whether a column of the file holds images rather than their paths."""
    return _image_column(_open(opened, name).schema_arrow) is not None


def read_image_tables(files: DatasetFiles, names: list[str], *, min_classes: int = 2) -> DatasetLayout:
    """The samples of all rows; the images are not read. Raises `DatasetInvalid` with file and row.

    Where no class is needed (`min_classes` 0), rows may have no label, or one below 0 as test splits of the Hub do.
    """
    samples: list[Sample] = []
    for name in sorted(names):
        with files.open(name) as opened:
            samples += _samples(_open(opened, name), name, needs_label=min_classes > 0)
    return layout_of(samples, min_classes=min_classes)


def iterate_row_group(opened: BinaryIO, name: str, row_group: int) -> Iterator[bytes]:
    """The encoded images of one row group in order; b"" where a row has none. Raises `ImageRejected`."""
    try:
        table = parquet.ParquetFile(opened)
        column = _image_column(table.schema_arrow)
        assert column is not None
        num_bytes = 0
        for batch in table.iter_batches(READ_ROWS, row_groups=[row_group], columns=[column]):
            for value in batch.column(0).to_pylist():
                content = (value.get("bytes") if isinstance(value, dict) else value) or b""
                num_bytes += len(content)
                if num_bytes > MAX_GROUP_BYTES:
                    raise ImageRejected(f"{name}: row group {row_group} unpacks to over {MAX_GROUP_BYTES:,} bytes.")
                yield content
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ImageRejected(f"{name}: the Parquet file cannot be read ({error}).") from error


def _open(opened: BinaryIO, name: str) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(opened)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse(name, f"it is no readable Parquet file ({error}).")


def _samples(table: parquet.ParquetFile, name: str, *, needs_label: bool) -> Iterator[Sample]:
    schema = table.schema_arrow
    if _image_column(schema) is None:
        refuse(name, f"no column holds images; found: {', '.join(schema.names)}.")
    if table.metadata.num_rows > MAX_ROWS:
        refuse(name, f"it has {table.metadata.num_rows:,} rows; at most {MAX_ROWS:,} are read from one file.")
    features = _features(schema)
    label_column = _label_column(schema, features)
    if label_column is None and needs_label:
        refuse(name, f"there is no column {LABEL!r}; found: {', '.join(schema.names)}.")
    label_column = label_column or LABEL  # which then no row has
    class_names = features.get(label_column, {}).get("names")
    columns = [column for column in (label_column, "domain", "split") if column in schema.names]
    split_of_file = split_of_name(name)
    number = 0
    for row_group in range(table.num_row_groups):
        for row, values in enumerate(_rows(table, row_group, columns, name)):
            place = f"{name}, row {number + 1}"
            label = values.get(label_column)
            if class_names is not None and isinstance(label, int):
                is_unknown = label < 0 and not needs_label
                label = None if is_unknown else _class_name(label, class_names, place)
            yield Sample(
                f"{name}/{number:07d}",
                read_text({LABEL: label}, LABEL, place, is_needed=needs_label),
                read_text(values, "domain", place),
                split=read_split(values, place) or split_of_file,
                place=Place(name, row_group=row_group, row=row),
            )
            number += 1


def _class_name(number: int, class_names: Sequence[str], place: str) -> str:
    if not 0 <= number < len(class_names):
        refuse(place, f"label is {number}; the file names {len(class_names)} classes.")
    return class_names[number]


def _rows(table: parquet.ParquetFile, row_group: int, columns: list[str], name: str) -> list[dict[str, Any]]:
    if not columns:  # pyarrow would give no row at all
        return [{}] * table.metadata.row_group(row_group).num_rows
    try:
        rows: list[dict[str, Any]] = table.read_row_group(row_group, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse(name, f"its row group {row_group} cannot be read ({error}).")
    return rows


def _image_column(schema: pyarrow.Schema) -> str | None:
    """`image` first, else the first column of bytes or of Hugging Face's {bytes, path}."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    return "image" if "image" in found else next(iter(found), None)


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _features(schema: pyarrow.Schema) -> Mapping[str, Any]:
    """What `datasets` notes of each column, such as the names of a ClassLabel."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _label_column(schema: pyarrow.Schema, features: Mapping[str, Any]) -> str | None:
    """`label`, else the one ClassLabel of Hugging Face's; None without either."""
    if LABEL in schema.names:
        return LABEL
    labels = [column for column in schema.names if (features.get(column) or {}).get("_type") == "ClassLabel"]
    return str(labels[0]) if len(labels) == 1 else None
