"""The other datasets on which a job measures its weights: what a request names, as it is found to be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.errors import ConfigInvalid, DatasetInvalid, LabelsInvalid
from alignclip_store.database import reading
from alignclip_store.datasets import Dataset, open_dataset
from alignclip_store.references import without_suffix
from api import class_similarity
from api.errors import RequestInvalid
from api.layouts import read_layout_of
from api.resources import Resources
from api.schemas import MAX_NAME_LENGTH, TestDataset

PARAM = "test_datasets"


class FoundTestDataset(NamedTuple):
    """One of them."""

    kept: dict[str, Any]  # name, reference and class words, as a job keeps them
    num_images: int


def read_test_datasets(resources: Resources, owner: str, given: Sequence[TestDataset]) -> list[dict[str, Any]]:
    """Name, reference and class words of each, as a job keeps them. Every fault names its place among them."""
    return [found.kept for found in find_test_datasets(resources, owner, given)]


def find_test_datasets(resources: Resources, owner: str, given: Sequence[TestDataset]) -> list[FoundTestDataset]:
    """Each, with the number of its images. Every fault names its place among them."""
    found: dict[str, FoundTestDataset] = {}
    for place, test in enumerate(given):
        param = f"{PARAM}.{place}"
        layout = read_layout_of(resources, owner, test.dataset, param=param)
        class_names = _class_names(resources, layout, test, param=f"{param}.class_names")
        name = test.name or _name_of(resources, owner, test.dataset, param=param)
        if name.casefold() in found:
            raise RequestInvalid(f"Two test datasets are called {name!r}; give one another name.", param=param)
        kept = {"name": name, "dataset": test.dataset, "class_names": class_names}
        found[name.casefold()] = FoundTestDataset(kept, len(layout.samples))
    return list(found.values())


def _class_names(
    resources: Resources, layout: DatasetLayout, test: TestDataset, *, param: str
) -> dict[str, str] | None:
    """The words for its class folders, where some are given."""
    try:
        names = resolve_class_names(layout, test.class_names)
        class_similarity.check_class_names(resources, tuple(names.values()))
    except (DatasetInvalid, ConfigInvalid, LabelsInvalid) as error:
        raise type(error)(error.message, param=param) from error
    return None if test.class_names is None else names


def _name_of(resources: Resources, owner: str, reference: str, *, param: str) -> str:
    """What the file or the folder is called, in the letters that a name has."""
    with reading(resources.engine) as session:
        dataset: Dataset = open_dataset(session, owner, reference, resources.settings, param=param)
    name = dataset.name or reference.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", without_suffix(name))
    if not (name := name.lstrip("_-")[:MAX_NAME_LENGTH]):
        raise RequestInvalid(f"Nothing in {reference[:200]!r} gives the dataset a name; give one.", param=param)
    return name
