"""The datasets of a grid on this machine: any reference that `alignclip dataset check` takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape

from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.listing import Listing, listing_file, save_listing
from alignclip_core.dataset.samples import DatasetLayout, layout_of
from alignclip_core.dataset.splits import thin_out
from alignclip_core.protocols.paper import folder_names
from cli.console import err
from cli.dataset_source import name_of, provide_folder

CLASS_NAMES_SUFFIX = ".classes.json"  # beside a dataset: folder name to the words for it


@dataclass(frozen=True)
class GridData:
    """One dataset, ready to be linked into run directories."""

    name: str
    folder: Path  # absolute
    layout: DatasetLayout
    class_names: Mapping[str, str]  # folder name to the words for it
    class_names_file: Path | None
    is_listed: bool  # the layout is not what the folder alone says: thinned out, or of a manifest that was named

    def link(self, inputs: Path) -> None:
        """Make it the dataset of a run's inputs; what is there stays."""
        dataset = inputs / "dataset"
        if dataset.exists():
            return
        inputs.mkdir(parents=True, exist_ok=True)
        if self.is_listed:
            save_listing(listing_file(dataset), Listing(self.layout))
        dataset.symlink_to(self.folder, target_is_directory=True)


def find_dataset(root: Path, name: str) -> Path | None:
    """The folder or file of a dataset of the paper below a folder of datasets; case, "-" and "_" do not matter."""
    wanted = {_letters_of(each) for each in folder_names(name)}
    found = (
        sorted(root.iterdir(), key=lambda path: (path.name != name, path.is_file(), path.name)) if root.is_dir() else ()
    )
    return next((path for path in found if _letters_of(name_of(str(path))) in wanted), None)


def _letters_of(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def open_data(source: str | Path, output: Path, images_per_class: int | None = None) -> GridData:
    """The dataset that a reference names; with `images_per_class`, at most so many of each class in each domain.

    What is packed or elsewhere is put below `output` once. Raises `CliError`, `DatasetRejected` and `DatasetInvalid`.
    """
    reference, name = str(source), name_of(str(source))
    names_file = Path(reference).absolute().with_name(name + CLASS_NAMES_SUFFIX)
    given = json.loads(names_file.read_text()) if names_file.is_file() else None
    with err.status(escape(f"reading {reference}")):
        found = provide_folder(reference, output / "datasets" / name)
        layout = found.read()
    if images_per_class is not None:
        layout = layout_of(thin_out(layout, images_per_class), min_classes=2)
    return GridData(
        name=name,
        folder=found.folder.absolute(),
        layout=layout,
        class_names=resolve_class_names(layout, given),
        class_names_file=names_file if given is not None else None,
        is_listed=images_per_class is not None or found.manifest is not None,
    )
