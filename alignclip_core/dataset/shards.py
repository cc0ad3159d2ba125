"""WebDataset shards: files of one key belong together, `0001.jpg` beside `0001.cls`. Loads no torch."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import PurePosixPath

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.layout import IMAGE_SUFFIXES
from alignclip_core.dataset.rows import read_split, read_text, refuse
from alignclip_core.dataset.samples import DatasetLayout, Sample, layout_of, split_of_name
from alignclip_core.errors import DatasetInvalid

LABEL_SUFFIXES = ("cls", "txt", "json")  # the first that a key has names its class
MAX_LABEL_BYTES = 1 << 16
CLASS_NAMES_FILE = "classnames.txt"  # beside the shards: the name of class 0, of class 1, ...


def is_sharded(names: Mapping[str, int]) -> bool:
    """Whether every image has a label of its own beside it, as in WebDataset's shards.

    Captions beside the images of class folders do not make shards of them.
    """
    if not any(name.lower().endswith(LABEL_SUFFIXES) for name in names):
        return False
    with_image = {key: parts for key, parts in _keys(names).items() if _image_of(parts)}
    if not all(any(suffix in parts for suffix in LABEL_SUFFIXES) for parts in with_image.values()):
        return False
    return any("cls" in parts or "/" not in key or ".tar/" in key for key, parts in with_image.items())


def read_shards(files: DatasetFiles, *, min_classes: int = 2) -> DatasetLayout:
    """The samples of the shards. Raises `DatasetInvalid`, naming the member, for a label that cannot be used."""
    class_names = _class_names(files)
    samples = []
    for _, parts in sorted(_keys(files.sizes).items()):
        image = _image_of(parts)
        if image is not None:
            samples.append(_sample(files, image, parts, class_names))
    return layout_of(samples, min_classes=min_classes)


def _keys(names: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Key -> suffix -> path; a key ends at the first dot of the name, as in WebDataset."""
    keys: dict[str, dict[str, str]] = defaultdict(dict)
    for path in names:
        name = PurePosixPath(path).name
        stem, _, suffix = name.partition(".")
        if suffix and stem and not path.endswith("/"):
            keys[path.removesuffix(name) + stem][suffix.lower()] = path
    return keys


def _image_of(parts: Mapping[str, str]) -> str | None:
    return next((parts[suffix] for suffix in sorted(parts) if f".{suffix}" in IMAGE_SUFFIXES), None)


def _sample(files: DatasetFiles, image: str, parts: Mapping[str, str], class_names: list[str]) -> Sample:
    path = next(parts[suffix] for suffix in LABEL_SUFFIXES if suffix in parts)
    fields = _fields(parts["json"], _read_label(files, parts["json"])) if "json" in parts else {}
    row = fields if path == parts.get("json") else {"label": _read_label(files, path)}
    label = read_text(row, "label", path, is_needed=True)
    if class_names and label.isdecimal():
        if int(label) >= len(class_names):
            refuse(path, f"class {label}, but {CLASS_NAMES_FILE} names {len(class_names)} classes.")
        label = class_names[int(label)]
    split = read_split(fields, path) or split_of_name(path)
    return Sample(image, label, read_text(fields, "domain", path), split=split)


def _fields(path: str, text: str) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(path, f"it is no JSON ({error}).")
    if not isinstance(fields, dict):
        refuse(path, 'wanted an object such as {"label": "cat"}.')
    return fields


def _read_label(files: DatasetFiles, path: str) -> str:
    if files.sizes[path] > MAX_LABEL_BYTES:
        refuse(path, f"a label of {files.sizes[path]:,} bytes; at most {MAX_LABEL_BYTES:,} are read.")
    with files.open(path) as opened:
        try:
            return opened.read(MAX_LABEL_BYTES).decode()
        except UnicodeDecodeError as error:
            raise DatasetInvalid(f"{path}: it is no UTF-8 (byte {error.start}).") from error


def _class_names(files: DatasetFiles) -> list[str]:
    found = [path for path in files.sizes if PurePosixPath(path).name == CLASS_NAMES_FILE]
    if not found:
        return []
    path = min(found, key=lambda name: (name.count("/"), name))
    names = _read_label(files, path).splitlines()
    return [read_text({"label": name}, "label", f"{path}, line {n}", is_needed=True) for n, name in enumerate(names, 1)]
