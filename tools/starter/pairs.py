"""captions.csv -> pictures with their texts.

The file has the columns image, kind, caption: one row per text of a picture. Pictures lie beside it, in a folder or in
the same zip. A row whose picture is not there is left out.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from pathlib import Path

from PIL import Image

CAPTIONS_FILE = "captions.csv"
SENTENCE_KINDS = frozenset({"flickr"})  # their captions are sentences; those of all other kinds are class names
HELD_OUT_SUFFIX = "_val"  # kinds that are never trained, only measured
CLASS_TEMPLATES = ("a photo of a {}.", "a {}.", "{}", "a picture of a {}.", "a close-up photo of a {}.")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture, and what may be said about it."""

    path: str
    kind: str
    captions: tuple[str, ...]  # sentences, or names of its class

    @property
    def has_class(self) -> bool:
        return self.kind not in SENTENCE_KINDS

    @property
    def is_held_out(self) -> bool:
        return self.kind.endswith(HELD_OUT_SUFFIX)

    def texts(self) -> list[list[str]]:
        """The forms of each caption: the sentence itself, or the class name in every template."""
        if not self.has_class:
            return [[caption] for caption in self.captions]
        return [[template.replace("{}", name) for template in CLASS_TEMPLATES] for name in self.captions]

    def positive_key(self, caption: int) -> str:
        """Pictures with equal keys are each other's positives: the class name, or the picture alone."""
        return self.captions[caption] if self.has_class else f"picture {self.path}"


class PairSource:
    """A folder or a zip with captions.csv and pictures."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self._archive = zipfile.ZipFile(path) if path.is_file() else None

    def pictures(self) -> list[Picture]:
        """All pictures that are there, in the order of the file."""
        captions: dict[tuple[str, str], list[str]] = {}
        for row in self._rows():
            if self._holds(row["image"]):
                captions.setdefault((row["image"], row["kind"]), []).append(row["caption"].replace("_", " "))
        if not captions:
            raise SystemExit(f"{self._root} holds no picture that its {CAPTIONS_FILE} names.")
        return [Picture(path=path, kind=kind, captions=tuple(texts)) for (path, kind), texts in captions.items()]

    def open(self, picture: Picture) -> Image.Image:
        """The picture as RGB."""
        if self._archive is None:
            return Image.open(self._root / picture.path).convert("RGB")
        return Image.open(BytesIO(self._archive.read(picture.path))).convert("RGB")

    def _rows(self) -> Iterator[dict[str, str]]:
        binary = (
            self._archive.open(CAPTIONS_FILE) if self._archive is not None else (self._root / CAPTIONS_FILE).open("rb")
        )
        with binary, TextIOWrapper(binary, encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines)

    def _holds(self, path: str) -> bool:
        if self._archive is None:
            return (self._root / path).is_file()
        return path in self._archive.NameToInfo


def class_names(pictures: Sequence[Picture]) -> list[str]:
    """The class names of the pictures, each once, sorted."""
    return sorted({name for picture in pictures if picture.has_class for name in picture.captions})
