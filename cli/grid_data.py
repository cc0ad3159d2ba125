"""The datasets of a grid on this machine: any form that the service reads, as a folder or as one packed file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.listing import Listing, listing_file, read_folder, save_listing
from alignclip_core.dataset.samples import DatasetLayout, layout_of
from alignclip_core.dataset.splits import thin_out
from alignclip_store.dataset_files import open_container
from alignclip_store.datasets import dataset_limits
from alignclip_store.shard_files import with_shards
from cli.environment import load_settings
from cli.errors import CliError

CLASS_NAMES_SUFFIX = ".classes.json"  # beside a dataset: folder name to the words for it
PACKED_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".parquet")


@dataclass(frozen=True)
class GridData:
    """One dataset, ready to be linked into run directories."""

    name: str
    folder: Path  # absolute
    layout: DatasetLayout
    class_names: Mapping[str, str]  # folder name to the words for it
    class_names_file: Path | None
    is_thinned: bool  # the layout has fewer images than the folder

    def link(self, inputs: Path) -> None:
        """Make it the dataset of a run's inputs; what is there stays."""
        dataset = inputs / "dataset"
        if dataset.exists():
            return
        inputs.mkdir(parents=True, exist_ok=True)
        if self.is_thinned:
            save_listing(listing_file(dataset), Listing(self.layout))
        dataset.symlink_to(self.folder, target_is_directory=True)


def find_dataset(root: Path, name: str) -> Path | None:
    """The folder or packed file of a dataset below a folder of datasets."""
    return next((path for suffix in ("", *PACKED_SUFFIXES) if (path := root / f"{name}{suffix}").exists()), None)


def open_data(source: Path, output: Path, images_per_class: int | None = None) -> GridData:
    """The dataset of a folder or packed file; with `images_per_class`, at most so many of each class in each domain.

    Raises `CliError` for what is neither, and `DatasetInvalid`.
    """
    if not source.exists():
        raise CliError(f"There is no folder or zip {str(source)!r}.")
    name = next((source.name.removesuffix(end) for end in PACKED_SUFFIXES if source.name.endswith(end)), source.name)
    names_file = source.with_name(name + CLASS_NAMES_SUFFIX)
    given = json.loads(names_file.read_text()) if names_file.is_file() else None
    folder = source.absolute() if source.is_dir() else _unpack(source, output / "datasets" / name)
    layout = read_folder(folder)
    if images_per_class is not None:
        layout = layout_of(thin_out(layout, images_per_class), min_classes=2)
    return GridData(
        name=name,
        folder=folder,
        layout=layout,
        class_names=resolve_class_names(layout, given),
        class_names_file=names_file if given is not None else None,
        is_thinned=images_per_class is not None,
    )


def _unpack(packed: Path, folder: Path) -> Path:
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    limits = dataset_limits(load_settings())
    with packed.open("rb") as file, with_shards(open_container(packed.name, file, limits), limits) as files:
        return files.fetch(folder)
