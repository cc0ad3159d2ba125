"""The published forms of well-known datasets, recognised by their own lists of images. Loads no torch.

CoOp's `split_zhou_*.json`, and the files that torchvision unpacks for Oxford-IIIT Pet, Stanford Cars, Flowers102,
Food-101, FGVC Aircraft, SUN397 and DTD. Caltech101 and EuroSAT are class folders.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.rows import LABEL, read_text, refuse
from alignclip_core.dataset.samples import DatasetLayout, Sample, SplitName, layout_of
from alignclip_core.errors import DatasetInvalid

COOP = "split_zhou_"
MAX_LIST_BYTES = 256 << 20
SPLITS: tuple[tuple[str, SplitName], ...] = (("train", "train"), ("val", "validation"), ("test", "test"))


def read_known(files: DatasetFiles, *, min_classes: int = 2) -> DatasetLayout | None:
    """The layout of a dataset that one of the forms fits; None where none does. Raises `DatasetInvalid`."""
    ends = {pattern.rpartition("/")[2] for pattern in _FORMS}
    lists = [name for name in files.sizes if (end := name.rpartition("/")[2]) in ends or end.startswith(COOP)]
    for pattern, read in _FORMS.items():
        found = sorted(name for name in lists if fnmatch(f"/{name}", f"*/{pattern}"))
        if len(found) > 1:
            raise DatasetInvalid(f"{found[0]!r} and {found[1]!r} are lists of two datasets; name the folder of one.")
        if found:
            return layout_of(_samples(read, _Lists(files, found[0], pattern)), min_classes=min_classes)
    return None


class _Lists:
    """The lists of one dataset, and its images."""

    def __init__(self, files: DatasetFiles, found: str, pattern: str) -> None:
        """`found`: the list that was recognised; all others are named from the folder above `pattern`."""
        self.found = found
        self.root = "/".join(found.split("/")[: -len(pattern.split("/"))])
        self.files = files

    def place(self, name: str) -> str:
        """A path below the dataset's own top as a path of the files."""
        return f"{self.root}/{name}" if self.root else name

    def read(self, name: str) -> bytes:
        """Raises `DatasetInvalid` where the list is not there or too long."""
        path = self.place(name)
        if path not in self.files.sizes:
            raise DatasetInvalid(f"{path!r} is missing beside {self.found!r}.")
        if self.files.sizes[path] > MAX_LIST_BYTES:
            refuse(path, f"a list of {self.files.sizes[path]:,} bytes; at most {MAX_LIST_BYTES:,} are read.")
        with self.files.open(path) as opened:
            return opened.read()

    def lines(self, name: str) -> Iterator[tuple[str, str]]:
        """(place for errors, line) of every line that is not empty."""
        for number, line in enumerate(self.read(name).splitlines(), 1):
            place = f"{self.place(name)}, line {number}"
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as error:
                refuse(place, f"it is no UTF-8 (byte {error.start}).")
            if text:
                yield place, text

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            refuse(self.place(name), f"it is no JSON ({error}).")

    def matlab(self, name: str, key: str) -> np.ndarray:
        """An array of a MATLAB file, in one dimension."""
        from scipy.io import loadmat  # imported here: a quarter of a second that few datasets need

        try:
            content = loadmat(BytesIO(self.read(name)), squeeze_me=True)
        except Exception as error:  # scipy raises what it likes for files that are none
            raise DatasetInvalid(f"{self.place(name)}: it is no MATLAB file ({error}).") from error
        return np.atleast_1d(content[key])

    def sample(self, image: str, label: str, split: SplitName, place: str) -> Sample:
        """Raises `DatasetInvalid` unless the image is there and the label is a word."""
        path = self.place(image)
        if path not in self.files.sizes:
            refuse(place, f"there is no image {path[:200]!r} in the dataset.")
        return Sample(path, read_text({LABEL: label}, LABEL, place, is_needed=True), split=split)

    def folder_of(self, image: str) -> str | None:
        """The folder below the top, with "/" at its end, in which a list's images lie."""
        top = f"{self.root}/" if self.root else ""
        found = [name for name in self.files.sizes if f"/{name}".endswith(f"/{image}") and name.startswith(top)]
        shortest = min(found, key=len, default=None)
        return None if shortest is None else shortest.removeprefix(top).removesuffix(image)


def _samples(read: Callable[[_Lists], Iterator[Sample]], lists: _Lists) -> list[Sample]:
    try:
        return list(read(lists))
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # of lists that were made to harm
        raise DatasetInvalid(f"{lists.found!r} and the lists beside it do not fit together ({error!r}).") from error


def _coop(lists: _Lists) -> Iterator[Sample]:
    name = lists.found.rpartition("/")[2]
    content = lists.json(name)
    entries = [(key, split, n, entry) for key, split in SPLITS for n, entry in enumerate(_of_split(content, key))]
    if not entries:
        refuse(lists.found, 'wanted {"train": [["cat/1.jpg", 0, "cat"], ...], "val": [...], "test": [...]}.')
    folder = None
    for key, split, number, entry in entries:
        place = f"{lists.found}, {key}[{number}]"
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(entry[i], str) for i in (0, 2)):
            refuse(place, 'wanted ["cat/1.jpg", 0, "cat"].')
        if folder is None:
            folder = lists.folder_of(entry[0])
        yield lists.sample((folder or "") + entry[0], entry[2], split, place)


def _of_split(content: Any, key: str) -> list[Any]:
    found = content.get(key) if isinstance(content, dict) else None
    return found if isinstance(found, list) else []


def _pets(lists: _Lists) -> Iterator[Sample]:
    for name, split in (("trainval", "train"), ("test", "test")):
        for place, line in lists.lines(f"annotations/{name}.txt"):
            image = line.split()[0]
            yield lists.sample(f"images/{image}.jpg", image.rpartition("_")[0], split, place)  # type: ignore[arg-type]


def _aircraft(lists: _Lists) -> Iterator[Sample]:
    for name, split in SPLITS:
        for place, line in lists.lines(f"images_variant_{name}.txt"):
            image, _, variant = line.partition(" ")
            yield lists.sample(f"images/{image}.jpg", variant, split, place)


def _textures(lists: _Lists) -> Iterator[Sample]:
    for name, split in SPLITS:  # the first of its ten splits, as in the papers
        for place, line in lists.lines(f"labels/{name}1.txt"):
            yield lists.sample(f"images/{line}", line.partition("/")[0], split, place)


def _food(lists: _Lists) -> Iterator[Sample]:
    for name, split in (("train", "train"), ("test", "test")):
        for label, images in sorted(lists.json(f"meta/{name}.json").items()):
            for image in images:
                yield lists.sample(f"images/{image}.jpg", label, split, f"meta/{name}.json")  # type: ignore[arg-type]


def _sun(lists: _Lists) -> Iterator[Sample]:
    folders = {line.strip("/"): place for place, line in lists.lines("ClassName.txt")}
    top = lists.place("")
    for path in sorted(lists.files.sizes):
        folder, _, name = path.removeprefix(top).rpartition("/")
        if folder in folders and name.endswith(".jpg"):
            # a/apartment_building/outdoor is an outdoor apartment building: CoOp's words
            label = " ".join(reversed(folder.split("/")[1:]))
            yield lists.sample(f"{folder}/{name}", label, "", folders[folder])


def _flowers(lists: _Lists) -> Iterator[Sample]:
    labels = lists.matlab("imagelabels.mat", "labels")
    names = _torchvision_names("flowers102", "Flowers102")
    for key, split in (("trnid", "train"), ("valid", "validation"), ("tstid", "test")):
        for image in lists.matlab("setid.mat", key):
            label = names[int(labels[image - 1]) - 1]
            yield lists.sample(f"jpg/image_{image:05d}.jpg", label, split, f"setid.mat, {key}")  # type: ignore[arg-type]


def _cars(lists: _Lists) -> Iterator[Sample]:
    names = [str(name) for name in lists.matlab("devkit/cars_meta.mat", "class_names")]
    for folder, notes, split in (
        ("cars_train", "devkit/cars_train_annos.mat", "train"),
        ("cars_test", "cars_test_annos_withlabels.mat", "test"),
    ):
        for entry in lists.matlab(notes, "annotations"):
            image, label = str(entry["fname"]), names[int(entry["class"]) - 1]
            yield lists.sample(f"{folder}/{image}", label, split, notes)  # type: ignore[arg-type]


def _torchvision_names(module: str, name: str) -> list[str]:
    """The class names that stand in torchvision's source; importing it would load torch."""
    source = Path(find_spec("torchvision").submodule_search_locations[0]) / "datasets" / f"{module}.py"  # type: ignore[union-attr, index]
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for each in node.body:
                target = each.targets[0] if isinstance(each, ast.Assign) else getattr(each, "target", None)
                if getattr(target, "id", "") == "classes":
                    return list(ast.literal_eval(each.value))  # type: ignore[attr-defined]
    raise AssertionError(f"torchvision names no classes of {name}")


_FORMS: MappingProxyType[str, Callable[[_Lists], Iterator[Sample]]] = MappingProxyType(
    {
        f"{COOP}*.json": _coop,
        "annotations/trainval.txt": _pets,
        "images_variant_train.txt": _aircraft,
        "labels/train1.txt": _textures,
        "meta/train.json": _food,
        "ClassName.txt": _sun,
        "setid.mat": _flowers,
        "devkit/cars_meta.mat": _cars,
    }
)
"""A list that only this form has -> its reader. CoOp's come first: they lie beside the others."""
