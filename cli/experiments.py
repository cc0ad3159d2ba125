"""A table or figure of the paper: its grids on the datasets that are here, and what is needed for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from alignclip_core.base_models import list_base_models
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method
from alignclip_core.protocols.paper import Experiment, expected_layout
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.grid_data import find_dataset, open_data
from cli.grids import Spending, cell_command, run_grids


@dataclass(frozen=True)
class GridChanges:
    """What a user wants otherwise than the paper."""

    base_model: str | None = None
    methods: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, grid: Grid) -> Grid:
        """The grid with them."""
        return replace(
            grid,
            base_model=self.base_model or grid.base_model,
            methods=tuple(map(Method.parse, self.methods)) or grid.methods,
            values={**grid.values, **self.values},
        )


def evaluate_experiment(
    experiment: Experiment, root: Path, changes: GridChanges, images_per_class: int | None, spending: Spending
) -> None:
    """Run what can be run, and say what the rest needs. Raises `CliError` where nothing can be."""
    grids = [changes.apply(grid) for grid in experiment.grids]
    needs = [list(_needs(grid, root)) for grid in grids]
    all_needs = list(dict.fromkeys(need for of_grid in needs for need in of_grid))
    if spending.is_plan:
        out.print(_plan(experiment, grids, needs))
        return
    ready = [grid for grid, missing in zip(grids, needs, strict=True) if not missing]
    if not ready:
        raise CliError(f"{experiment.name} needs: {'; '.join(all_needs)}.")
    names = dict.fromkeys(name for grid in ready for name in (grid.dataset, *grid.choices.test_sets))
    data = {name: open_data(_find(root, name), spending.output, images_per_class) for name in names}
    run_grids([(grid, data[grid.dataset], cell_command) for grid in ready], data, spending, experiment.figures)
    if all_needs:
        err.print(f"The rest of {experiment.name} needs: {'; '.join(all_needs)}.", markup=False)


def _needs(grid: Grid, root: Path) -> Iterator[str]:
    """What is not here yet: datasets by their place, a base model by the command that fetches it."""
    for name in (grid.dataset, *grid.choices.test_sets):
        if find_dataset(root, name) is None:
            yield f"{root / name} (a folder, or {name}.zip)"
    known = {model.id: model for model in list_base_models(load_settings().models_location.absolute())}
    if grid.base_model not in known:
        yield f"the base model {grid.base_model} (alignclip convert)"
    elif not known[grid.base_model].is_local:
        yield f"alignclip models pull {grid.base_model}"


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
