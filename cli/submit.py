"""`alignclip submit`: a folder, a zip or a reference becomes a fine-tuning job."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from alignclip_core.dataset.files import LocalFiles
from alignclip_core.dataset.layout import list_folder
from alignclip_core.dataset.reading import is_plain, read_dataset
from cli.archive import FolderArchive, WatchedFile
from cli.client import ServiceClient, connect
from cli.console import err, out
from cli.errors import CliError, RequestRefused
from cli.watch import watch_job

Options = list[str] | None


def submit(
    source: Annotated[
        str, typer.Argument(help="A folder, zip, tar or Parquet file here; or a file id, path or URL at the service.")
    ],
    model: Annotated[str, typer.Option(help="Base model to fine-tune.")] = "starter",
    algorithm: Annotated[str | None, typer.Option(help="alignclip, or a baseline: clipood, finetune, ...")] = None,
    preset: Annotated[str | None, typer.Option(help="paper, authors_code, robust, or one of the model's card.")] = None,
    unseen: Annotated[Options, typer.Option(help="Class folders to hold out, a,b,c; may be repeated.")] = None,
    test_domain: Annotated[Options, typer.Option(help="Domain folder to hold out; may be repeated.")] = None,
    template: Annotated[Options, typer.Option(help="Prompt with {}, or the name of a set; may be repeated.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Length in optimizer steps.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Length in passes over the images.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    suffix: Annotated[str | None, typer.Option(help="Becomes part of the tuned model's id.")] = None,
    set_: Annotated[
        Options, typer.Option("--set", metavar="NAME=VALUE", help="Any other field of the request; may be repeated.")
    ] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Do not upload: the service reads SOURCE itself.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the job to its end.")] = False,
) -> None:
    """Upload images and create a fine-tuning job."""
    options = {
        "model": model,
        "algorithm": algorithm,
        "preset": preset,
        "unseen_classes": split_names(unseen),
        "test_domains": split_names(test_domain),
        "templates": read_templates(template),
        "num_steps": steps,
        "n_epochs": epochs,
        "seed": seed,
        "suffix": suffix,
    }
    given = {name: value for name, value in options.items() if value not in (None, [])} | parse_assignments(set_ or [])
    with connect() as client:
        training_file = source if by_reference else provide_training_file(client, source)
        try:
            job = client.create_job({"training_file": training_file, **given})
        except RequestRefused as error:
            if training_file != source:
                message = f"{error} (The upload is kept as {training_file}: submit that instead of the folder.)"
                raise RequestRefused(message, status=error.status, code=error.code) from error
            raise
        out.print(job["id"], markup=False)
        if wait:
            raise typer.Exit(watch_job(client, job["id"]))
    err.print(f"Watch it with: alignclip watch {job['id']}", markup=False)


def provide_training_file(client: ServiceClient, source: str, *, min_classes: int = 2) -> str:
    """The file id of an uploaded folder or file; anything that is neither is a file id, or a path or URL there.

    A folder's layout is checked before its first byte is sent. Raises `DatasetInvalid`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        paths = paths_to_send(path, min_classes=min_classes)
        num_bytes = sum((path / name).stat().st_size for name in paths)
        with _upload_progress(f"{len(paths)} files", num_bytes) as advance:
            return _create_file(client, f"{path.resolve().name}.zip", FolderArchive(path, paths, advance))
    if path.is_file():
        with path.open("rb") as file, _upload_progress(path.name, path.stat().st_size) as advance:
            return _create_file(client, path.name, WatchedFile(file, advance))
    if source.startswith("file-") or "://" in source or path.is_absolute():
        return source
    raise CliError(f"There is no folder or file {source!r} here; a path at the service has to be absolute.")


def paths_to_send(folder: Path, *, min_classes: int = 2) -> list[str]:
    """The images of class folders; of a folder with lists or shards, all visible files. Raises `DatasetInvalid`."""
    paths = list_folder(folder)
    files = LocalFiles(folder, paths)
    visible = [name for name in paths if not name.endswith("/") and not f"/{name}".count("/.")]
    if any(name.endswith(".tar") for name in visible):
        return visible  # the service looks into shards
    layout = read_dataset(files, min_classes=min_classes)
    return [sample.path for sample in layout.samples] if is_plain(layout, files) else visible


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Fields of the request from name=value; a value is JSON where it can be read as such, else text."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator or not name:
            raise CliError(f"--set takes name=value, got {assignment!r}; for example --set smoothing=0.2")
        try:
            values[name] = json.loads(text)
        except json.JSONDecodeError:
            values[name] = text
    return values


def _create_file(client: ServiceClient, name: str, content: FolderArchive | WatchedFile) -> str:
    return str(client.create_file(name, content)["id"])


@contextmanager
def _upload_progress(what: str, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; the function that it gives advances it by a number of bytes."""
    columns = (TextColumn("Uploading {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(what, total=num_bytes)
        yield lambda num_read: progress.advance(task, num_read)


def read_templates(values: Options) -> list[str] | str | None:
    """Templates, or the name of a set: a single one that is no template."""
    return values[0] if values and len(values) == 1 and "{}" not in values[0] else values


def split_names(values: Options) -> list[str]:
    """The names of an option that is repeated, or holds several with commas between them, or both."""
    return [name.strip() for value in values or [] for name in value.split(",") if name.strip()]
