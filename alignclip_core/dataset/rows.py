"""The rows of a manifest: what may stand in one, and the word with file and line for what may not. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from alignclip_core.dataset.samples import SPLIT_WORDS, Place, Sample, SplitName
from alignclip_core.errors import DatasetInvalid

IMAGE_COLUMNS = ("image", "file_name")  # the second is Hugging Face's
LABEL = "label"
MAX_TEXT = 512  # characters of a label or a domain
MAX_LINE_BYTES = 1 << 20
MAX_JSON_LINE_BYTES = 16 << 20  # an image may stand in it
DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)


def refuse(place: str, reason: str) -> NoReturn:
    """Raises `DatasetInvalid`; `place` is a file with a line or a row."""
    raise DatasetInvalid(f"{place}: {reason}")


def image_column(columns: Collection[str], place: str) -> str:
    """The column that names the images. Raises `DatasetInvalid` where it or the label's is missing."""
    for name in IMAGE_COLUMNS:
        if name in columns:
            if LABEL not in columns:
                refuse(place, f"there is no column {LABEL!r}; found: {', '.join(sorted(columns)) or 'none'}.")
            return name
    refuse(place, f"there is no column 'image'; found: {', '.join(sorted(columns))[:MAX_TEXT] or 'none'}.")


def read_text(row: Mapping[str, Any], column: str, place: str, *, is_needed: bool = False) -> str:
    """The text of a column without space at its ends; "" where it is empty and not needed."""
    value = row.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        refuse(place, f"{column} is {type(value).__name__}, wanted text.")
    text = (value or "").strip()
    if is_needed and not text:
        refuse(place, f"{column} is empty.")
    if len(text) > MAX_TEXT or not text.isprintable():
        refuse(place, f"{column} is {text[:40]!r}..., wanted printable text of at most {MAX_TEXT} characters.")
    return text


def read_split(row: Mapping[str, Any], place: str) -> SplitName:
    """The split that a row names, "" for none."""
    word = read_text(row, "split", place).lower()
    if word and word not in SPLIT_WORDS:
        refuse(place, f"split is {word!r}; wanted train, validation or test.")
    return SPLIT_WORDS[word] if word else ""  # type: ignore[return-value]


class ManifestRows:
    """Turns rows into samples, each with the files of the dataset before its eyes."""

    def __init__(self, folder: str, files: Mapping[str, int], url: str | None = None) -> None:
        """`folder`: of the manifest, "" or with "/" at its end: paths in rows are relative to it.

        `url`: where the files lie, if that has one: rows may name them by their whole URL.
        """
        self._folder = folder
        self._url = url
        self._files = files
        self._places: dict[str, str] = {}  # path of an image -> where it was named first

    def sample(self, row: Mapping[str, Any], column: str, place: str) -> Sample:
        """The sample of a row. Raises `DatasetInvalid` with its place."""
        image = row.get(column)
        if isinstance(image, Place):  # it stands in the manifest itself
            path = f"{image.location}/{len(self._places):07d}"
        else:
            image, path = None, self._path(row, column, place)
        first = self._places.setdefault(path, place)
        if first != place:
            refuse(place, f"image {path!r} was named before, at {first}.")
        label = read_text(row, LABEL, place, is_needed=True)
        return Sample(path, label, read_text(row, "domain", place), split=read_split(row, place), place=image)

    def _path(self, row: Mapping[str, Any], column: str, place: str) -> str:
        name = row.get(column)
        if not isinstance(name, str) or not name.strip():
            refuse(place, f"{column} is {'empty' if not name else 'no text'}; wanted a path such as pets/cat/1.jpg.")
        if name.startswith("data:"):
            refuse(place, "an image in a data URI, as data:image/png;base64,..., can stand in a .jsonl alone.")
        if "://" in name:
            return self._path_of_url(name.strip(), place)
        parts = name.strip().removeprefix("./").split("/")
        if "\\" in name or name[1:2] == ":" or not all(parts) or {".", ".."} & set(parts) or not name.isprintable():
            refuse(place, f"image {name[:200]!r} leads out of the manifest's folder; wanted a path such as cat/1.jpg.")
        path = self._folder + "/".join(parts)
        if path not in self._files:
            refuse(place, f"there is no image {path[:200]!r} in the dataset.")
        return path

    def _path_of_url(self, url: str, place: str) -> str:
        """No URL is fetched because a row names it: it must be that of a file that was listed."""
        path = url.removeprefix(f"{self._url}/")
        if path not in self._files:
            where = f"one below {self._url}/ that is there, or a path" if self._url else "a path such as cat/1.jpg"
            refuse(place, f"image {url[:200]!r} is no file of the dataset; wanted {where}.")
        return path
