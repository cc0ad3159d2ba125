"""`alignclip classify`: many images through a model of the service, to the screen or into a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Protocol

import typer
from rich.progress import Progress

from alignclip_core.dataset.layout import IMAGE_SUFFIXES, list_folder
from cli.client import ServiceClient, connect
from cli.console import err, out
from cli.errors import CliError, RequestRefused

BATCH_IMAGES = 32
BATCH_BYTES = 16 * 2**20
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet may run a cell that begins so


class Writer(Protocol):
    """Where predictions go."""

    def __call__(self, path: str, predictions: Sequence[dict[str, Any]]) -> None: ...


def classify(
    model: Annotated[str, typer.Argument(help="A base or tuned model; see `alignclip models`.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    labels: Annotated[
        list[str] | None, typer.Option(help="Class names, a,b,c; may be repeated. Without: the model's own.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="How many labels to show per image, best first.")] = 1,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a table: file, label, score, ...")] = None,
) -> None:
    """Classify images. An image that cannot be read is reported and makes the exit code 1."""
    paths = find_images(images)
    names = [name.strip() for value in labels or [] for name in value.split(",") if name.strip()]
    num_refused = 0
    with connect() as client, _writer(csv_file, top_k) as write, Progress(console=err, transient=True) as progress:
        task = progress.add_task("Classifying", total=len(paths))
        for batch in batches(paths):
            for path, answer in classify_batch(client, model, batch, names, top_k):
                if isinstance(answer, RequestRefused):
                    num_refused += 1
                    err.print(f"{path}: {answer}", style="yellow", markup=False)
                else:
                    write(str(path), answer)
            progress.advance(task, len(batch))
    if csv_file:
        err.print(f"{len(paths) - num_refused} images classified into {csv_file}", markup=False)
    if num_refused:
        raise CliError(f"{num_refused} of {len(paths)} images could not be classified.")


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The files as given, and all visible images below the folders. Raises `CliError` when there is none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            names = [name for name in list_folder(path) if _is_visible_image(name)]
            found += [path / name for name in names]
        elif path.is_file():
            found.append(path)
        else:
            raise CliError(f"There is no image or folder {str(path)!r}.")
    if not found:
        raise CliError(f"There is no image in {', '.join(map(str, paths))} ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return found


def batches(paths: Sequence[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """Paths with their content, as many at a time as fit one request."""
    batch: list[tuple[Path, bytes]] = []
    num_bytes = 0
    for path in paths:
        content = path.read_bytes()
        if batch and (len(batch) == BATCH_IMAGES or num_bytes + len(content) > BATCH_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append((path, content))
        num_bytes += len(content)
    if batch:
        yield batch


def classify_batch(
    client: ServiceClient, model: str, batch: Sequence[tuple[Path, bytes]], labels: Sequence[str], top_k: int
) -> Iterator[tuple[Path, list[dict[str, Any]] | RequestRefused]]:
    """The predictions of each image. One bad image refuses a whole request, so then each is asked for alone."""
    images = [(path.name, content) for path, content in batch]
    try:
        answers = client.classify(model, images, labels=labels, top_k=top_k)
    except RequestRefused as error:
        if error.code != "invalid_image":
            raise
        if len(batch) == 1:
            yield batch[0][0], error
            return
        for one in batch:
            yield from classify_batch(client, model, [one], labels, top_k)
    else:
        for (path, _), answer in zip(batch, answers, strict=True):
            yield path, answer["predictions"]


def safe_cell(text: str) -> str:
    """The text so that a spreadsheet shows it and never runs it as a formula."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


@contextmanager
def _writer(csv_file: Path | None, top_k: int) -> Iterator[Writer]:
    if csv_file is None:
        yield _print
        return
    with csv_file.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *(f"{name}_{rank}" for rank in range(1, top_k + 1) for name in ("label", "score"))])

        def write(path: str, predictions: Sequence[dict[str, Any]]) -> None:
            cells = [cell for one in predictions for cell in (safe_cell(one["label"]), f"{one['score']:.6f}")]
            table.writerow([safe_cell(path), *cells])

        yield write


def _print(path: str, predictions: Sequence[dict[str, Any]]) -> None:
    shown = "  ".join(f"{prediction['label']} {prediction['score']:.1%}" for prediction in predictions)
    out.print(f"{path}  {shown}", markup=False)


def _is_visible_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)
