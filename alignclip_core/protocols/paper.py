"""The paper's tables and figures as grids, and its recipes by name: data, in paper.json beside this file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alignclip_core.config import ALGORITHMS, TEMPLATE_SETS
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.errors import ConfigInvalid
from alignclip_core.protocols.cells import Choices
from alignclip_core.protocols.grids import DEFAULT_SEEDS, Grid
from alignclip_core.protocols.methods import Method
from alignclip_core.protocols.tables import PaperFigures

FILE = Path(__file__).with_name("paper.json")
ALL_METHODS = "all"


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper."""

    name: str  # table1 ... fig8
    title: str
    grids: tuple[Grid, ...]
    figures: PaperFigures
    note: str

    @property
    def datasets(self) -> tuple[str, ...]:
        """Everything that it needs, test sets too."""
        names = (name for grid in self.grids for name in (grid.dataset, *grid.choices.test_sets))
        return tuple(dict.fromkeys(names))


def experiment_names() -> tuple[str, ...]:
    """In the paper's order."""
    return tuple(_read()["experiments"])


def recipe_names() -> tuple[str, ...]:
    """Of `find_recipe`."""
    return tuple(_read()["recipes"])


def find_experiment(name: str, seeds: tuple[int, ...] = DEFAULT_SEEDS) -> Experiment:
    """Raises `ConfigInvalid` for a name that is no table or figure of the paper."""
    found = _read()["experiments"].get(name)
    if found is None:
        raise ConfigInvalid(f"Unknown experiment {name!r}; known: {', '.join(experiment_names())}.", param="paper")
    grids = tuple(_grid(given, seeds) for given in found["grids"])
    return Experiment(name, found["title"], grids, found["paper"], found["note"])


def find_recipe(name: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The fields of every method, and those of single ones. Raises `ConfigInvalid` for an unknown name."""
    if name not in _read()["recipes"]:
        raise ConfigInvalid(f"Unknown recipe {name!r}; known: {', '.join(recipe_names())}.", param="recipe")
    values = dict(_read()["recipes"][name])
    of_methods = values.pop("of", {})
    if "templates" in values:
        values["templates"] = TEMPLATE_SETS[values["templates"]]
    return values, of_methods


def expected_layout(dataset: str) -> DatasetLayout:
    """Domains and as many classes as the dataset has: enough to plan with before it is there."""
    known = _read()["datasets"][dataset]
    names = tuple(f"class {number:04}" for number in range(known["num_classes"]))
    return DatasetLayout(class_names=names, domains=tuple(known["domains"]), samples=())


def folder_names(dataset: str) -> tuple[str, ...]:
    """What its folder may be called, beside its name: as DomainBed, CoOp or torchvision unpack it."""
    return (dataset, *_read()["datasets"][dataset].get("folders", ()))


def _grid(given: Mapping[str, Any], seeds: tuple[int, ...]) -> Grid:
    values, of_methods = find_recipe(given["recipe"])
    methods = given.get("methods", ALL_METHODS)
    return Grid(
        dataset=given["dataset"],
        protocol=given["protocol"],
        methods=tuple(map(Method.parse, ALGORITHMS if methods == ALL_METHODS else methods)),
        seeds=seeds,
        base_model=given.get("base_model", _read()["base_model"]),
        choices=Choices(
            targets=tuple(given.get("targets", ())),
            halves=given.get("halves"),
            num_shots=given.get("num_shots"),
            test_sets=tuple(given.get("test_sets", ())),
        ),
        recipe=values,
        recipe_of=of_methods,
    )


@cache
def _read() -> dict[str, Any]:
    return json.loads(FILE.read_text())  # type: ignore[no-any-return]
