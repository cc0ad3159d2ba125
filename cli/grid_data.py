"""The datasets of a grid on this machine: a folder or a zip becomes a folder below the output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alignclip_core.dataset.layout import DatasetLayout, list_folder, read_layout
from alignclip_core.dataset.splits import resolve_class_names, thin_out
from alignclip_store.archives import unpack_archive
from alignclip_store.aside import renamed_when_complete
from alignclip_store.datasets import dataset_limits
from cli.environment import load_settings
from cli.errors import CliError

CLASS_NAMES_SUFFIX = ".classes.json"  # beside a dataset: folder name to the words for it


@dataclass(frozen=True)
class GridData:
    """One dataset, ready to be linked into run directories."""

    name: str
    folder: Path
    layout: DatasetLayout
    class_names: Mapping[str, str]  # folder name to the words for it
    class_names_file: Path | None


def find_dataset(root: Path, name: str) -> Path | None:
    """The folder or zip of a dataset below a folder of datasets."""
    return next((path for path in (root / name, root / f"{name}.zip") if path.exists()), None)


def open_data(source: Path, output: Path, images_per_class: int | None = None) -> GridData:
    """The dataset of a folder or zip; with `images_per_class`, at most so many of each class in each domain.

    Raises `CliError` for what is neither, and `DatasetInvalid`.
    """
    if not source.exists():
        raise CliError(f"There is no folder or zip {str(source)!r}.")
    name = source.name.removesuffix(".zip")
    names_file = source.with_name(name + CLASS_NAMES_SUFFIX)
    given = json.loads(names_file.read_text()) if names_file.is_file() else None
    folder = source.absolute() if source.is_dir() else _unpack(source, output / "datasets" / name)
    layout = read_layout(list_folder(folder))
    if images_per_class is not None:
        folder = _link_few(folder, layout, images_per_class, output / "datasets" / f"{name}-{images_per_class}")
        layout = read_layout(list_folder(folder))
    names = resolve_class_names(layout, given)
    return GridData(name, folder, layout, names, names_file if given is not None else None)


def _unpack(archive: Path, folder: Path) -> Path:
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with archive.open("rb") as file:
            unpack_archive(file, folder, dataset_limits(load_settings()))
    return folder


def _link_few(source: Path, layout: DatasetLayout, num_each: int, folder: Path) -> Path:
    """A folder of links to some of the images, the same ones on every machine."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with renamed_when_complete(folder) as aside:
        for sample in thin_out(layout, num_each):
            link = aside / sample.path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / sample.path)
    return folder
