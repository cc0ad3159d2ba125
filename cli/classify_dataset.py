"""`alignclip classify-dataset`: a worker of the service classifies a whole dataset; the answers become a file here."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from alignclip_store.job_status import FINISHED, JobStatus
from cli.client import CLASSIFICATION_PREFIX, ServiceClient, connect
from cli.console import err, out
from cli.errors import CliError, ServiceUnreachable
from cli.submit import Options, provide_training_file, read_templates, split_names
from cli.watch import EXIT_CODES, POLL_SECONDS, RECONNECT_SECONDS

SHOWN_LABELS = 20


def classify_dataset(
    source: Annotated[
        str,
        typer.Argument(help="What `submit` takes, without class folders too; or the id of a classification to watch."),
    ],
    model: Annotated[str | None, typer.Option(help="A base or tuned model, or an alias.")] = None,
    labels: Annotated[
        Options, typer.Option(help="Class names, a,b,c; may be repeated. Without: the model's own.")
    ] = None,
    template: Annotated[Options, typer.Option(help="Prompt with {}, or the name of a set; may be repeated.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels are told per image, best first.")] = 5,
    output: Annotated[Path | None, typer.Option(help="The JSON Lines file. Without: ID.jsonl.")] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Do not upload: the service reads SOURCE itself.")
    ] = False,
) -> None:
    """Classify every image of a dataset and save the answers. Exit code 0: succeeded, 1: failed, 2: cancelled."""
    with connect() as client:
        if source.startswith(CLASSIFICATION_PREFIX):
            classification_id = source
        elif model is None:
            raise CliError("Name the model that is asked with --model; see `alignclip models`.")
        else:
            dataset = source if by_reference else provide_training_file(client, source, min_classes=0)
            given = {"labels": split_names(labels), "templates": read_templates(template)}
            body = {"model": model, "dataset": dataset, "top_k": top_k}
            body |= {name: value for name, value in given.items() if value}
            classification_id = client.create_classification(body)["id"]
            out.print(classification_id, markup=False)
        found = _watch(client, classification_id)
        if found["error"]:
            raise CliError(f"The classification {found['status']}: {found['error']['message']}")
        if found["status"] == JobStatus.SUCCEEDED:
            _save(client, found, output or Path(f"{classification_id}.jsonl"))
    raise typer.Exit(EXIT_CODES[JobStatus(found["status"])])


def _watch(client: ServiceClient, classification_id: str) -> dict[str, Any]:
    """The classification once it has ended. Ctrl-C ends the watching, not the classification."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"))
    try:
        with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as progress:
            return _until_ended(client, classification_id, progress)
    except KeyboardInterrupt:
        err.print(f"It goes on; fetch the answers with: alignclip classify-dataset {classification_id}", markup=False)
        raise


def _until_ended(client: ServiceClient, classification_id: str, progress: Progress) -> dict[str, Any]:
    """Raises `ServiceUnreachable` when the service stays away."""
    task = progress.add_task("queued", total=None)
    answered_at = time.monotonic()
    while True:
        try:
            found = client.get_classification(classification_id)
        except ServiceUnreachable:
            if time.monotonic() - answered_at > RECONNECT_SECONDS:
                raise
            progress.update(task, description="the service is away")
        else:
            answered_at = time.monotonic()
            phase = found["phase"].replace("_", " ")
            progress.update(task, description=phase, total=found["num_images"], completed=found["num_done"])
            if found["status"] in FINISHED:
                return found
        time.sleep(POLL_SECONDS)


def _save(client: ServiceClient, found: dict[str, Any], output: Path) -> None:
    """The answers at `output`, whole or not at all; their counts on the screen."""
    if found["result_file"] is None:
        raise CliError(f"The answers of {found['id']} were deleted.")
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent, prefix=".results-") as aside:
        fetched = Path(aside) / output.name
        with fetched.open("wb") as file:
            client.fetch_results(found["id"], file)
        fetched.replace(output)
    result = found["result"]
    out.print(_label_table(result["num_by_label"]))
    words = [f"{result['num_images']:,} images"]
    words += [f"{result['num_failed']:,} of them not readable"] if result["num_failed"] else []
    words += [f"{result['num_rejected']:,} rejected"] if result["num_rejected"] else []
    if result["accuracy"] is not None:
        words.append(f"accuracy {result['accuracy']:.1%} of {result['num_judged']:,}")
    out.print(f"{', '.join(words)}: {output}", markup=False)


def _label_table(num_by_label: dict[str, int]) -> Table:
    table = Table("label", box=None, pad_edge=False, header_style="bold")
    table.add_column("images", justify="right")
    ranked = sorted(num_by_label.items(), key=lambda item: -item[1])
    for label, number in ranked[:SHOWN_LABELS]:
        table.add_row(label, f"{number:,}")
    if len(ranked) > SHOWN_LABELS:
        table.add_row(f"{len(ranked) - SHOWN_LABELS} more", f"{sum(number for _, number in ranked[SHOWN_LABELS:]):,}")
    return table
