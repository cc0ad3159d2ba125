"""`alignclip dataset check`: what is in a dataset and what is wrong with it, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from alignclip_store.dataset_files import open_container, with_shards
from alignclip_store.datasets import dataset_limits
from cli.console import err, out
from cli.environment import load_settings
from cli.errors import CliError
from cli.finished import run_core

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)
STYLES = {"fatal": "red", "warning": "yellow"}
NUM_NAMED_PATHS = 5


@app.callback()
def dataset() -> None:
    """Look at datasets."""


@app.command()
def check(
    dataset: Annotated[Path, typer.Argument(help="A folder, or a zip, tar or Parquet file.")],
    model: Annotated[str, typer.Option(help="The base model that judges names and labels.")] = "starter",
    test_domain: Annotated[list[str] | None, typer.Option(help="As in a job; may be given several times.")] = None,
    unseen_class: Annotated[list[str] | None, typer.Option(help="As in a job; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, as in a job.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole report as JSON.")] = False,
) -> None:
    """Count, decode and compare all images. Exit code 1 when a job on this dataset would fail."""
    given = {"test_domains": test_domain or [], "unseen_classes": unseen_class or [], "seed": seed}
    with _folder_of(dataset) as folder, TemporaryDirectory() as aside:
        file = Path(aside) / "report.json"
        with err.status(f"Looking at {escape(str(dataset))}"):
            run_core("report", model, str(folder.absolute()), "--given", json.dumps(given), output=file)
        report = json.loads(file.read_text())
    if as_json:
        out.print_json(data=report)
    else:
        show_report(report)
    if any(finding["severity"] == "fatal" for finding in report["findings"]):
        raise typer.Exit(1)


def show_report(report: Mapping[str, Any]) -> None:
    """The report as tables."""
    if report["num_images"]:
        counts = ", ".join(f"{part['num_images']:,} {part['name'].replace('_', ' ')}" for part in report["splits"])
        domains = [domain for domain in report["domains"] if domain["name"]]
        among = f" in {len(domains)} domains" if domains else ""
        out.print(f"{report['num_images']:,} images of {len(report['classes'])} classes{among}: {counts}.")
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


def _class_table(classes: list[Mapping[str, Any]]) -> Table:
    table = Table("class", "called", Column("images", justify="right"), show_edge=False)
    for each in classes:
        table.add_row(escape(each["name"]), escape(each["display_name"]), f"{each['num_images']:,}")
    return table


@contextmanager
def _folder_of(dataset: Path) -> Iterator[Path]:
    """The dataset's folder; a packed one is unpacked while the block runs."""
    if dataset.is_dir():
        yield dataset
        return
    if not dataset.is_file():
        raise CliError(f"There is nothing at {str(dataset)!r}; name a folder, or a zip, tar or Parquet file.")
    limits = dataset_limits(load_settings())
    with (
        TemporaryDirectory() as aside,
        dataset.open("rb") as file,
        with_shards(open_container(dataset.name, file, limits), limits) as files,
    ):
        yield files.fetch(Path(aside) / "dataset")
