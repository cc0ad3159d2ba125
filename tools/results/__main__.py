"""`make results DATA=FOLDER`: the protocols on every dataset of a folder, all methods, into docs/results.md.

    python -m tools.results [DATA] [--long] [--output OUTPUT] [--method METHOD ...] [--parallel N] [--threads N]

Without DATA it draws the demo's pictures and takes those. Broken off, the same command goes on; a finished cell stays.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer

from alignclip_core.errors import AlignClipError
from alignclip_core.protocols.cells import Cell
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method
from alignclip_core.protocols.rows import read_rows
from alignclip_store.errors import StoreError
from cli.console import err
from cli.errors import CliError
from cli.grid_data import GridData, open_data
from cli.grid_runs import RESULTS_FILE
from cli.grids import Spending, run_grids
from tools.demo.__main__ import draw
from tools.results import budget
from tools.results.document import write_document

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "results.md"
DEMO_NAME = "openmoji-and-noto"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every cell has an answer and the document is written."""
    options = _parser().parse_args(arguments)
    spent = budget.LONG if options.long else budget.SHORT
    output = (options.output or ROOT / ".results" / ("long" if options.long else "")).absolute()
    asked = tuple(map(Method.parse, options.method)) if options.method else spent.methods()
    try:
        sources = _sources(options.data, output)
        data = {source: open_data(source, output, budget.IMAGES_PER_CLASS) for source in sources}
        grids = [
            (grid, each, source)
            for seed in spent.seeds
            for source, each in sorted(data.items(), key=lambda item: (not item[1].layout.domains, item[0].name))
            for grid in budget.grids_of(spent, each.name, each.layout, asked, seed)
        ]
        _print_budget(spent, grids)
        run_grids(
            [(grid, each, partial(command_of, source, grid)) for grid, each, source in grids],
            {},
            Spending(output, options.parallel, options.threads, keeps_models=False, is_plan=options.plan),
        )
    except (CliError, AlignClipError, StoreError) as error:
        err.print(f"results: {error}", style="red", markup=False)
        return 1
    except typer.Exit as ended:  # stopped, or a run failed
        return int(ended.exit_code)
    if not options.plan:
        names = {each.name for each in data.values()}
        write_document(DOCUMENT, spent, [row for row in read_rows(output / RESULTS_FILE) if row.dataset in names])
    return 0


def command_of(source: Path, grid: Grid, cell: Cell) -> str:
    """The command that runs one cell alone."""
    words = ["alignclip", "evaluate", f"DATA/{source.name}", "--protocol", grid.protocol]
    words += ["--images-per-class", str(budget.IMAGES_PER_CLASS)]
    if grid.choices.num_shots is not None:
        words += ["--shots", str(grid.choices.num_shots)]
    if grid.choices.test_fraction is not None:
        words += ["--test-fraction", str(grid.choices.test_fraction)]
    for name, value in grid.values.items():
        words += ["--set", f"{name}={value}"]
    if grid.protocol in ("domain_shift", "in_the_wild"):
        words += ["--target", cell.answer.target]
    return shlex.join([*words, "--method", cell.method.text, "--seed", str(cell.seed)])


def _sources(data: Path | None, output: Path) -> list[Path]:
    """The datasets of a folder, sorted by name; without one the demo's pictures."""
    if data is None:
        pictures = draw(output / "demo")
        link = output / DEMO_NAME
        if not link.exists():
            link.symlink_to(pictures, target_is_directory=True)
        return [link]
    if not data.is_dir():
        raise CliError(f"There is no folder {str(data)!r}; DATA is a folder of datasets, each a zip or a folder.")
    found = [path for path in sorted(data.iterdir()) if path.is_dir() or path.suffix == ".zip"]
    if not found:
        raise CliError(f"{data} holds neither a zip nor a folder.")
    return found


def _print_budget(spent: budget.Budget, grids: Sequence[tuple[Grid, GridData, Path]]) -> None:
    err.print(
        f"Every method: {budget.IMAGES_PER_CLASS} images of each class in each domain, {spent.values}, "
        f"seeds {spent.seeds}.",
        markup=False,
    )
    for name in dict.fromkeys(grid.dataset for grid, _, _ in grids):
        asked = dict.fromkeys(
            f"{grid.protocol} ({', '.join(dict.fromkeys(cell.answer.target for cell in grid.cells(each.layout)))})"
            for grid, each, _ in grids
            if grid.dataset == name
        )
        err.print(f"{name}: {'; '.join(asked)}", markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.results", description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of datasets; without: the demo's pictures")
    parser.add_argument("--long", action="store_true", help="few methods, as many steps as the starter's card has")
    parser.add_argument("--output", type=Path, help="rows and runs; gone on with")
    parser.add_argument("--method", action="append", help="instead of every method; may be repeated")
    parser.add_argument("--parallel", type=int, default=2, help="trainers side by side")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a trainer")
    parser.add_argument("--plan", action="store_true", help="show the cells and train nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
