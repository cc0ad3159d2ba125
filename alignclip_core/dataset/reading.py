"""The files of a dataset -> its layout, whatever form it has. Loads no torch."""

from __future__ import annotations

from dataclasses import replace

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.image_table import SUFFIX, has_images, read_image_tables
from alignclip_core.dataset.imagenet import imagenet_names, numbered_folders
from alignclip_core.dataset.known import read_known
from alignclip_core.dataset.layout import IMAGE_SUFFIXES, read_layout
from alignclip_core.dataset.manifest import find_manifest, read_manifest
from alignclip_core.dataset.samples import DatasetLayout, layout_of
from alignclip_core.dataset.shards import is_sharded, read_shards
from alignclip_core.errors import DatasetInvalid

BACKGROUND = "BACKGROUND_Google"


def read_dataset(
    files: DatasetFiles, *, manifest: str | None = None, min_classes: int = 2, url: str | None = None
) -> DatasetLayout:
    """Classes, domains, splits and images. No image is read. Raises `DatasetInvalid`.

    In this order: a manifest (`manifest`, or one that lies there), a known dataset's own lists, shards with labels,
    Parquet with images, class folders. `url`: where the files lie, if that has one: a manifest may name them by it.
    """
    found = manifest or find_manifest(files.sizes)
    if found is not None and not _is_image_table(files, found):
        return read_manifest(files, found, min_classes=min_classes, url=url)
    if manifest is not None:
        return read_image_tables(files, [manifest], min_classes=min_classes)
    known = read_known(files, min_classes=min_classes)
    if known is not None:
        return known
    suffixes = {f".{name.rpartition('.')[2].lower()}" for name in files.sizes}
    if suffixes & IMAGE_SUFFIXES and is_sharded(files.sizes):
        return read_shards(files, min_classes=min_classes)
    if SUFFIX in suffixes and not suffixes & IMAGE_SUFFIXES:
        tables = [name for name in files.sizes if name.lower().endswith(SUFFIX)]
        return read_image_tables(files, tables, min_classes=min_classes)
    layout = _with_wordnet_ids(read_layout(files.sizes, min_classes=min_classes), min_classes)
    return _with_imagenets_test(_without_background(layout, min_classes))


def is_plain(layout: DatasetLayout, files: DatasetFiles) -> bool:
    """Whether the folders say all there is to say: a copy of the files needs no list beside it."""
    if any(sample.place is not None for sample in layout.samples):
        return False
    try:
        return read_layout(files.sizes, min_classes=1) == layout
    except DatasetInvalid:
        return False


def _is_image_table(files: DatasetFiles, name: str) -> bool:
    if not name.lower().endswith(SUFFIX):
        return False
    with files.open(name) as opened:
        return has_images(opened, name)


def _with_wordnet_ids(layout: DatasetLayout, min_classes: int) -> DatasetLayout:
    """ImageNet-V2's folders under the names that ImageNet's have."""
    folders = numbered_folders(layout.class_names)
    if folders is None:
        return layout
    samples = [replace(sample, class_name=folders[sample.class_name]) for sample in layout.samples]
    return layout_of(samples, min_classes=min_classes, ignored=layout.ignored)


def _without_background(layout: DatasetLayout, min_classes: int) -> DatasetLayout:
    """Caltech101 without the folder that is no class, as everybody takes it."""
    if BACKGROUND not in layout.class_names:
        return layout
    samples = [sample for sample in layout.samples if sample.class_name != BACKGROUND]
    left_out = [sample.path for sample in layout.samples if sample.class_name == BACKGROUND]
    return layout_of(samples, min_classes=min_classes, ignored=[*layout.ignored, *left_out])


def _with_imagenets_test(layout: DatasetLayout) -> DatasetLayout:
    """ImageNet with its validation images as test images, as all report them: the labels of its own are secret."""
    splits = {sample.split for sample in layout.samples}
    if splits != {"train", "validation"} or imagenet_names(layout.class_names) is None:
        return layout
    samples = (replace(each, split="test") if each.split == "validation" else each for each in layout.samples)
    return replace(layout, samples=tuple(samples))
