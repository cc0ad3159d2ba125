"""Grids in the terminal: planned, run with a bar, shown and written as tables."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable

from alignclip_core.base_models import find_base_model
from alignclip_core.protocols.cells import Cell
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.rows import Row, read_rows
from alignclip_core.protocols.tables import PaperFigures, Table, make_tables
from alignclip_core.run_dir import EXIT_STOPPED
from cli.console import err, out
from cli.environment import load_settings
from cli.grid_data import GridData
from cli.grid_runs import RESULTS_FILE, GridRun, GridRunner, plan_runs, unfinished

CommandOf = Callable[[Cell], str]
WITH_TARGETS = ("domain_shift", "in_the_wild")
"""Protocols that leave a domain out."""
NOT_OF_A_CELL = ("--method", "--seed", "--target", "--plan")
"""Options that a single cell's command says in its own way."""


@dataclass(frozen=True)
class Spending:
    """Where a grid's files go, and what its runs may use."""

    output: Path  # absolute: runs link to what lies there
    num_parallel: int = 1
    num_threads: int | None = None
    keeps_models: bool = True
    is_plan: bool = False  # show the cells and train nothing


def run_grids(
    grids: Sequence[tuple[Grid, GridData, CommandOf]],
    test_sets: dict[str, GridData],
    spending: Spending,
    paper: PaperFigures | None = None,
) -> None:
    """Plan, run what has no row yet, print and write the tables. Exit code 1 where a run failed."""
    output, models_dir = spending.output, load_settings().models_location.absolute()
    runs: list[GridRun] = []
    for grid, data, command_of in grids:
        base_model = find_base_model(grid.base_model, models_dir)
        runs += plan_runs(grid, base_model, data, test_sets, output, command_of)
    todo = unfinished(runs, output)
    if spending.is_plan:
        out.print(plan_table(runs, todo))
        return
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: trainers write their checkpoints
    is_whole = _run(runs, todo, models_dir, spending)
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


def write_tables(rows: Sequence[Row], output: Path, paper: PaperFigures | None = None) -> None:
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
    if cell.question.protocol in WITH_TARGETS:
        kept += ["--target", cell.answer.target]
    return shlex.join(kept)


def _run(runs: Sequence[GridRun], todo: Sequence[GridRun], models_dir: Path, spending: Spending) -> bool:
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

        runner = GridRunner(
            output=spending.output,
            models_dir=models_dir,
            num_parallel=spending.num_parallel,
            num_threads=spending.num_threads,
            keeps_models=spending.keeps_models,
            on_row=on_row,
            on_failure=on_failure,
            on_active=on_active,
        )
        try:
            return runner.run(todo)
        except KeyboardInterrupt:
            err.print("Stopped; each run has a checkpoint, and the same command goes on from there.", markup=False)
            raise typer.Exit(EXIT_STOPPED) from None
