"""`alignclip evaluate`: the paper's protocols on any dataset, cell by cell, with one table at the end."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from alignclip_core.base_models import find_base_model
from alignclip_core.protocols.cells import PROTOCOLS, Cell, Choices, Halves, Protocol
from alignclip_core.protocols.grids import DEFAULT_SEEDS, Grid
from alignclip_core.protocols.methods import FORM, Method
from alignclip_core.protocols.rows import Row, read_rows
from alignclip_core.protocols.tables import Table, make_tables
from alignclip_core.run_dir import EXIT_STOPPED
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.grid_data import GridData, open_data
from cli.grid_runs import RESULTS_FILE, GridRun, GridRunner, plan_runs, unfinished
from cli.submit import parse_assignments

METHODS = ("zero_shot", "finetune", "clipood", "alignclip")
CommandOf = Callable[[Cell], str]
NOT_OF_A_CELL = ("--method", "--seed", "--target", "--plan")
"""Options that a single cell's command says in its own way."""


def evaluate(
    datasets: Annotated[list[Path], typer.Argument(help="Folders or zips; dataset_shift trains on the first.")],
    protocol: Annotated[str, typer.Option(help=f"One of: {', '.join(PROTOCOLS)}.")],
    method: Annotated[
        list[str] | None, typer.Option(help=f"{FORM}; may be repeated. Without: {', '.join(METHODS)}.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="May be repeated. Without: 0, 1 and 2.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Domain to leave out; without: each in turn.")] = None,
    model: Annotated[str, typer.Option(help="Base model.")] = "starter",
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
    """Ask one protocol of datasets, for several methods and seeds. The same command goes on where it was stopped."""
    grid = Grid(
        dataset="",
        protocol=cast(Protocol, _one_of("--protocol", protocol, PROTOCOLS)),
        methods=tuple(Method.parse(text) for text in method or METHODS),
        seeds=tuple(DEFAULT_SEEDS if seed is None else seed),
        base_model=model,
        choices=Choices(
            targets=tuple(target or ()),
            halves=cast(Halves | None, _one_of("--halves", halves, ("ceil", "floor"))),
            num_shots=shots,
            test_fraction=test_fraction,
        ),
        values=parse_assignments(set_ or []),
    )
    output = output.absolute()
    data = [open_data(source, output, images_per_class) for source in datasets]
    is_shift = grid.protocol == "dataset_shift"
    if is_shift:
        grid = replace(grid, choices=replace(grid.choices, test_sets=tuple(each.name for each in data[1:])))
    trained = data[:1] if is_shift else data
    run_grids(
        [(replace(grid, dataset=each.name), each, cell_command) for each in trained],
        {each.name: each for each in data},
        output,
        num_parallel=parallel,
        num_threads=threads,
        keeps_models=keep_models,
        is_plan=plan,
    )


def run_grids(
    grids: Sequence[tuple[Grid, GridData, CommandOf]],
    test_sets: dict[str, GridData],
    output: Path,
    *,
    num_parallel: int,
    num_threads: int | None,
    keeps_models: bool,
    is_plan: bool,
    paper: dict[str, Any] | None = None,
) -> None:
    """Plan, run what has no row yet, print and write the tables. Exit code 1 where a run failed."""
    models_dir = load_settings().models_location.absolute()
    runs: list[GridRun] = []
    for grid, data, command_of in grids:
        base_model = find_base_model(grid.base_model, models_dir)
        runs += plan_runs(grid, base_model, data, test_sets, output, command_of)
    todo = unfinished(runs, output)
    if is_plan:
        out.print(plan_table(runs, todo))
        return
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: trainers write their checkpoints
    is_whole = _run(runs, todo, output, models_dir, num_parallel, num_threads, keeps_models)
    keys = {cell.key for run in runs for cell in run.cells}
    rows = [row for row in read_rows(output / RESULTS_FILE) if row.key in keys]
    for table in make_tables(rows, paper):
        out.print(as_rich(table))
    write_tables(read_rows(output / RESULTS_FILE), output, paper)
    if not is_whole:
        raise typer.Exit(1)


def plan_table(runs: Sequence[GridRun], todo: Sequence[GridRun]) -> RichTable:
    """Every cell, and whether it has a row already."""
    table = RichTable("dataset", "protocol", "target", "method", "seed", "steps", "state", box=None, pad_edge=False)
    names = {run.name for run in todo}
    for run in runs:
        for cell in run.cells:
            state = "to run" if run.name in names else "done"
            words = (cell.dataset, cell.question.protocol, cell.answer.target, cell.method.text)
            table.add_row(*words, str(cell.seed), str(run.config.num_steps), state)
    return table


def as_rich(table: Table) -> RichTable:
    """For the terminal."""
    shown = RichTable(*table.columns, title=table.title, title_justify="left", box=None, pad_edge=False)
    for line in table.lines:
        shown.add_row(*line)
    return shown


def write_tables(rows: Sequence[Row], output: Path, paper: dict[str, Any] | None = None) -> None:
    """All tables of the folder as tables.md and, one file each, CSV."""
    tables = make_tables(rows, paper)
    text = "\n\n".join(f"## {table.title}\n\n{table.to_markdown()}" for table in tables)
    (output / "tables.md").write_text(text + "\n")
    folder = output / "tables"
    folder.mkdir(exist_ok=True)
    for table in tables:
        (folder / f"{table.title.replace(' ', '_').replace(':', '').replace('%', '')}.csv").write_text(table.to_csv())


def cell_command(cell: Cell) -> str:
    """The command that runs this cell alone: what was typed, for its method, seed and target."""
    words, kept = sys.argv[1:], ["alignclip"]
    place = 0
    while place < len(words):
        name = words[place].split("=")[0]
        if name in NOT_OF_A_CELL:
            place += 1 if "=" in words[place] or name == "--plan" else 2
            continue
        kept.append(words[place])
        place += 1
    kept += ["--method", cell.method.text, "--seed", str(cell.seed)]
    if cell.question.protocol in ("domain_shift", "in_the_wild"):
        kept += ["--target", cell.answer.target]
    return shlex.join(kept)


def _run(
    runs: Sequence[GridRun],
    todo: Sequence[GridRun],
    output: Path,
    models_dir: Path,
    num_parallel: int,
    num_threads: int | None,
    keeps_models: bool,
) -> bool:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"))
    with Progress(*columns, TimeElapsedColumn(), console=err) as progress:
        num_cells = sum(len(run.cells) for run in runs)
        num_done = num_cells - sum(len(run.cells) for run in todo)
        bar = progress.add_task("", total=num_cells, completed=num_done)

        def on_row(row: Row) -> None:
            progress.advance(bar)
            words = f"{row.dataset} {row.protocol} {row.target} {row.method} seed {row.seed}"
            progress.console.print(f"{words}: {row.accuracy:.1%} of {row.n} ({row.seconds:.0f} s)", markup=False)

        def on_failure(run: GridRun, reason: str) -> None:
            progress.console.print(f"{run.name} failed: {reason}", style="red", markup=False)

        def on_active(active: Iterable[GridRun]) -> None:
            progress.update(bar, description=", ".join(run.name.split("/", 2)[2] for run in active))

        runner = GridRunner(output, models_dir, num_parallel, num_threads, keeps_models, on_row, on_failure, on_active)
        try:
            return runner.run(todo)
        except KeyboardInterrupt:
            err.print("Stopped; each run has a checkpoint, and the same command goes on from there.", markup=False)
            raise typer.Exit(EXIT_STOPPED) from None


def _one_of(option: str, given: str | None, choices: Sequence[str]) -> str | None:
    if given is not None and given not in choices:
        raise CliError(f"{option} is {given!r}; it may be {', '.join(choices)}.")
    return given
