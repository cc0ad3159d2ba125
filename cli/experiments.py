"""A table or figure of the paper: its grids on the datasets that are here, and what is needed for the others."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from alignclip_core.base_models import BaseModel, list_base_models
from alignclip_core.protocols.cells import Cell
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method
from alignclip_core.protocols.paper import Experiment, expected_layout
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.grid_data import find_dataset, open_data
from cli.grids import WITH_TARGETS, Spending, run_grids


@dataclass(frozen=True, kw_only=True)
class GridChanges:
    """What a user wants otherwise than the paper."""

    base_model: str | None = None
    methods: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()  # these alone; (): all
    targets: tuple[str, ...] = ()  # domains to leave out; (): each in turn
    images_per_class: int | None = None

    def grids_of(self, experiment: Experiment) -> list[Grid]:
        """Its grids with them. Raises `CliError` for a dataset that none of them asks, or when no method is left."""
        known = {grid.dataset for grid in experiment.grids}
        for name in self.datasets:
            if name not in known:
                raise CliError(f"{experiment.name} does not train on {name!r}; it does on {', '.join(sorted(known))}.")
        of_datasets = [grid for grid in experiment.grids if not self.datasets or grid.dataset in self.datasets]
        changed = [self._apply(grid) for grid in of_datasets if self._takes(grid, experiment)]
        if not any(grid.methods for grid in changed):
            raise CliError(f"{changed[0].base_model} has no text tower; it takes methods with head=linear alone.")
        return [grid for grid in changed if grid.methods]

    def _takes(self, grid: Grid, experiment: Experiment) -> bool:
        """Whether a base model that the user named is the grid's, or takes the place of the paper's main one there."""
        own = [grid.base_model for grid in experiment.grids]
        asked = self.base_model if self.base_model in own else own[0]
        return self.base_model is None or grid.base_model == asked

    def _apply(self, grid: Grid) -> Grid:
        base_model = self.base_model or grid.base_model
        methods = tuple(map(Method.parse, self.methods)) or grid.methods
        known = _base_models()
        if base_model in known and not known[base_model].has_texts:
            methods = tuple(method for method in methods if method.values.get("head") == "linear")
        return replace(
            grid,
            base_model=base_model,
            methods=methods,
            values={**grid.values, **self.values},
            choices=replace(grid.choices, targets=self.targets or grid.choices.targets),
        )


def evaluate_experiment(experiment: Experiment, root: Path, changes: GridChanges, spending: Spending) -> None:
    """Run what can be run, and say what the rest needs. Raises `CliError` where nothing can be."""
    grids = changes.grids_of(experiment)
    needs = [list(_needs(grid, root)) for grid in grids]
    all_needs = list(dict.fromkeys(need for of_grid in needs for need in of_grid))
    if spending.is_plan:
        out.print(_plan(experiment, grids, needs))
        return
    ready = [grid for grid, missing in zip(grids, needs, strict=True) if not missing]
    if not ready:
        raise CliError(f"{experiment.name} needs: {'; '.join(all_needs)}.")
    names = dict.fromkeys(name for grid in ready for name in (grid.dataset, *grid.choices.test_sets))
    data = {name: open_data(_find(root, name), spending.output, changes.images_per_class) for name in names}
    command_of = partial(_cell_command, experiment, root, changes)
    run_grids([(grid, data[grid.dataset], command_of) for grid in ready], data, spending, experiment.figures)
    if all_needs:
        err.print(f"The rest of {experiment.name} needs: {'; '.join(all_needs)}.", markup=False)


def _needs(grid: Grid, root: Path) -> Iterator[str]:
    """What is not here yet: datasets by their place, a base model by the command that fetches it."""
    for name in (grid.dataset, *grid.choices.test_sets):
        if find_dataset(root, name) is None:
            yield f"{root / name} (a folder, or {name}.zip)"
    known = _base_models()
    if grid.base_model not in known:
        yield f"the base model {grid.base_model} (alignclip convert)"
    elif not known[grid.base_model].is_local:
        yield f"alignclip models pull {grid.base_model}"


def _cell_command(experiment: Experiment, root: Path, changes: GridChanges, cell: Cell) -> str:
    """The command that runs this cell alone, or with the others of its run."""
    words = ["alignclip", "evaluate", cell.dataset, "--paper", experiment.name, "--data", str(root)]
    words += ["--method", cell.method.text, "--seed", str(cell.seed)]
    words += ["--target", cell.answer.target] if cell.question.protocol in WITH_TARGETS else []
    has_many_bases = len({grid.base_model for grid in experiment.grids}) > 1
    words += ["--model", cell.base_model] if changes.base_model or has_many_bases else []
    words += ["--images-per-class", str(changes.images_per_class)] if changes.images_per_class else []
    for name, value in changes.values.items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def _base_models() -> dict[str, BaseModel]:
    return {model.id: model for model in list_base_models(load_settings().models_location.absolute())}


def _find(root: Path, name: str) -> Path:
    found = find_dataset(root, name)
    assert found is not None, "it was there a moment ago"
    return found


def _plan(experiment: Experiment, grids: Sequence[Grid], needs: Sequence[Sequence[str]]) -> RichTable:
    """Every cell, by the domains and classes that its dataset has as published."""
    columns = ("base model", "dataset", "protocol", "target", "method", "seed", "steps", "needs")
    table = RichTable(*columns, title=f"{experiment.name}: {experiment.title}", box=None, pad_edge=False)
    for grid, missing in zip(grids, needs, strict=True):
        for cell in grid.cells(expected_layout(grid.dataset)):
            words = (cell.base_model, cell.dataset, cell.question.protocol, cell.answer.target, cell.method.text)
            num_steps = grid.given_to(cell.method).get("num_steps", 0)
            table.add_row(*words, str(cell.seed), str(num_steps), "; ".join(missing) or "nothing")
    return table
