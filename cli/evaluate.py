"""`alignclip evaluate`: the paper's protocols on any dataset, cell by cell, with one table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from alignclip_core.protocols.cells import PROTOCOLS, Choices, Halves, Protocol
from alignclip_core.protocols.grids import DEFAULT_SEEDS, Grid
from alignclip_core.protocols.methods import FORM, Method
from alignclip_core.protocols.paper import experiment_names, find_experiment, find_recipe, recipe_names
from cli.errors import CliError
from cli.experiments import GridChanges, evaluate_experiment
from cli.grid_data import GridData, open_data
from cli.grids import Spending, cell_command, run_grids
from cli.submit import parse_assignments

METHODS = ("zero_shot", "finetune", "clipood", "alignclip")


def evaluate(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="REF...",
            help="Folders, packed files, manifests or URLs; dataset_shift trains on the first. With --paper: which of "
            "its own.",
        ),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help=f"One of: {', '.join(PROTOCOLS)}.")] = None,
    paper: Annotated[str | None, typer.Option(help=f"Instead of a protocol: {', '.join(experiment_names())}.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --paper: the folder of its datasets.")] = None,
    recipe: Annotated[str | None, typer.Option(help=f"The paper's settings: {', '.join(recipe_names())}.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help=f"{FORM}; may be repeated. Without: {', '.join(METHODS)}.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated. Without: 0, 1 and 2.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Domain to leave out; without: each in turn.")] = None,
    model: Annotated[str | None, typer.Option(help="Base model. Without: the starter; of --paper its own.")] = None,
    images_per_class: Annotated[
        int | None, typer.Option(min=2, help="Take at most so many of each class in each domain.")
    ] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Images of each that train. few_shot: 16.")] = None,
    halves: Annotated[str | None, typer.Option(help="Base classes of an odd number: ceil (CoOp) or floor.")] = None,
    test_fraction: Annotated[float | None, typer.Option(min=0, max=0.9, help="Share that is only tested.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A hyper-parameter of every method.")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder of rows, runs and tables; gone on with where it is begun.")
    ] = Path("evaluation"),
    parallel: Annotated[int, typer.Option(min=1, help="Trainers side by side.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of a trainer.")] = None,
    keep_models: Annotated[bool, typer.Option(help="Keep the finished models.")] = True,
    plan: Annotated[bool, typer.Option("--plan", help="Show the cells and train nothing.")] = False,
) -> None:
    """Ask one protocol of datasets, for several methods and seeds. The same command goes on where it was stopped.

    With --paper, a table or figure of the paper: its grids on those of its datasets that are in the folder --data, or
    on those alone that are named.
    """
    spending = Spending(output.absolute(), parallel, threads, keep_models, plan)
    if paper is not None:
        if data is None:
            raise CliError("--paper takes its datasets from a folder; name it with --data.")
        of_the_paper = {
            "--protocol": protocol,
            "--recipe": recipe,
            "--shots": shots,
            "--halves": halves,
            "--test-fraction": test_fraction,
        }
        if given := [option for option, value in of_the_paper.items() if value is not None]:
            raise CliError(
                f"--paper has the paper's own {', '.join(given)}; single settings change by --set NAME=VALUE."
            )
        experiment = find_experiment(paper, DEFAULT_SEEDS if seed is None else tuple(seed))
        changes = GridChanges(
            base_model=model,
            methods=tuple(method or ()),
            values=parse_assignments(set_ or []),
            datasets=tuple(datasets or ()),
            targets=tuple(target or ()),
            images_per_class=images_per_class,
        )
        evaluate_experiment(experiment, data, changes, spending)
        return
    if not datasets or protocol is None:
        raise CliError("Name at least one dataset and a --protocol, or an experiment with --paper and --data.")
    values, recipe_of = find_recipe(recipe) if recipe else ({}, {})
    grid = Grid(
        dataset="",
        protocol=cast(Protocol, _one_of("--protocol", protocol, PROTOCOLS)),
        methods=tuple(Method.parse(text) for text in method or METHODS),
        seeds=tuple(DEFAULT_SEEDS if seed is None else seed),
        base_model=model or "starter",
        choices=Choices(
            targets=tuple(target or ()),
            halves=cast(Halves | None, _one_of("--halves", halves, ("ceil", "floor"))),
            num_shots=shots,
            test_fraction=test_fraction,
        ),
        values=parse_assignments(set_ or []),
        recipe=values,
        recipe_of=recipe_of,
    )
    opened, test_sets = [open_data(source, spending.output, images_per_class) for source in datasets], list[GridData]()
    if grid.protocol == "dataset_shift":
        grid = replace(grid, choices=replace(grid.choices, test_sets=tuple(each.name for each in opened[1:])))
        opened, test_sets = opened[:1], opened[1:]
    grids = [(replace(grid, dataset=each.name), each, cell_command) for each in opened]
    run_grids(grids, {each.name: each for each in test_sets}, spending)


def _one_of(option: str, given: str | None, choices: Sequence[str]) -> str | None:
    if given is not None and given not in choices:
        raise CliError(f"{option} is {given!r}; it may be {', '.join(choices)}.")
    return given
