"""`alignclip dataset check`: what is in a dataset and what is wrong with it, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from alignclip_core.dataset.listing import DatasetFolder
from alignclip_store.references import FILE_ID_PREFIX
from cli.client import connect
from cli.console import err, out
from cli.dataset_source import folder_of
from cli.finished import run_core

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)
STYLES = {"fatal": "red", "warning": "yellow"}
NUM_NAMED_PATHS = 5


@app.callback()
def dataset() -> None:
    """Look at datasets."""


@app.command()
def check(
    dataset: Annotated[
        str, typer.Argument(metavar="REF", help="A folder, a packed file, a manifest, a URL, or a service's file id.")
    ],
    model: Annotated[str, typer.Option(help="The base model that judges names and labels.")] = "starter",
    validation: Annotated[str | None, typer.Option(metavar="REF", help="The validation_file that a job gets.")] = None,
    test_domain: Annotated[list[str] | None, typer.Option(help="As in a job; may be given several times.")] = None,
    unseen_class: Annotated[list[str] | None, typer.Option(help="As in a job; may be given several times.")] = None,
    test_fraction: Annotated[float | None, typer.Option(min=0, max=0.9, help="As in a job.")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="num_shots, as in a job.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, as in a job.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Count, decode and compare all images. Exit code 1 when a job on this dataset would fail."""
    given = {"test_domains": test_domain or [], "unseen_classes": unseen_class or [], "seed": seed}
    given |= {"test_fraction": test_fraction} if test_fraction is not None else {}
    given |= {"num_shots": shots} if shots is not None else {}
    if dataset.startswith(FILE_ID_PREFIX) and not Path(dataset).exists():
        held_out = {"validation_file": validation} if validation else {}
        with connect() as client:
            report = client.report_on_dataset({"dataset": dataset, "model": model, **held_out, **given})
    else:
        report = _look(dataset, model, validation, given)
    if as_json:
        out.print_json(data=report)
    else:
        show_report(report)
    if any(finding["severity"] == "fatal" for finding in report["findings"]):
        raise typer.Exit(1)


def _look(reference: str, model: str, validation: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The report, made on this machine with bars that tell how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with ExitStack() as stack:
        file = Path(stack.enter_context(TemporaryDirectory())) / "report.json"
        bars = _Bars(stack.enter_context(Progress(*columns, TimeElapsedColumn(), console=err)))
        found = stack.enter_context(folder_of(reference, partial(bars.show, f"fetching {reference}")))
        words = [model, *_words_of(found), "--given", json.dumps(given)]
        if validation is not None:
            held_out = stack.enter_context(folder_of(validation, partial(bars.show, f"fetching {validation}")))
            words += ["--validation", *_words_of(held_out)]
        run_core("report", *words, output=file, on_line=lambda line: bars.show(*json.loads(line)))
        return json.loads(file.read_text())  # type: ignore[no-any-return]


def _words_of(found: DatasetFolder) -> list[str]:
    """As the core's `report` takes a dataset."""
    return [str(found.folder.absolute()), found.manifest or "", found.url or ""]


class _Bars:
    """One bar for each thing that is done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def show(self, what: str, num_done: int, num_all: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(escape(what), total=num_all)
        self._progress.update(self._tasks[what], completed=num_done, total=num_all)


def show_report(report: Mapping[str, Any]) -> None:
    """The report as tables."""
    if report["num_images"]:
        counts = ", ".join(f"{part['num_images']:,} {part['name'].replace('_', ' ')}" for part in report["splits"])
        domains = [f"{each['num_images']:,} {each['name']}" for each in report["domains"] if each["name"]]
        among = f" in {len(domains)} domains" if domains else ""
        out.print(f"{report['num_images']:,} images of {len(report['classes'])} classes{among}: {counts}.")
        if domains:
            out.print(f"Domains: {', '.join(domains)}.", markup=False)
        if report["sizes"]:
            width, height = (_range(report["sizes"][side]) for side in ("width", "height"))
            out.print(
                f"Pixels: {width} wide, {height} high; {report['sizes']['mean_bytes'] / 1000:,.0f} kB on average."
            )
        out.print(_class_table(report["classes"]))
    if not report["findings"]:
        out.print("Nothing is wrong with it.", style="green")
    for finding in report["findings"]:
        out.print(f"[{STYLES[finding['severity']]}]{finding['severity']}[/] {escape(finding['message'])}")
        for path in finding["paths"][:NUM_NAMED_PATHS]:
            out.print(f"    {path}", style="dim", markup=False)
        if finding["num_paths"] > NUM_NAMED_PATHS:
            out.print(f"    and {finding['num_paths'] - NUM_NAMED_PATHS} more", style="dim")
        out.print(f"    {finding['hint']}", markup=False)


def _range(side: Mapping[str, float]) -> str:
    return f"{side['min']:.0f} to {side['max']:.0f} (median {side['median']:.0f})"


def _class_table(classes: list[Mapping[str, Any]]) -> Table:
    table = Table("class", "called", Column("images", justify="right"), show_edge=False)
    for each in classes:
        table.add_row(escape(each["name"]), escape(each["display_name"]), f"{each['num_images']:,}")
    return table
