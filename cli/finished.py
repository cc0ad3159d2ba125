"""`alignclip export`, `explain`, `interpolate`, `convert`: what is done with a model once it is there.

A folder is worked on here, by a process of its own that loads torch, which this one may not; an id is the service's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from alignclip_core.export.formats import ExportFormat
from cli.client import connect
from cli.console import out
from cli.environment import load_settings
from cli.errors import CliError


def export(
    model: Annotated[str, typer.Argument(help="A finished model's folder, or the id of a model of the service.")],
    output: Annotated[Path, typer.Option(help="The new folder.")],
    export_format: Annotated[ExportFormat, typer.Option("--format", help="Whose files to write.")] = "open_clip",
) -> None:
    """Write a model as open_clip, transformers or any runtime of ONNX reads it."""
    _check_new(output)
    if Path(model).is_dir():
        run_core("export", model, "--format", export_format, output=output)
    else:
        _download(model, export_format, output)
    out.print(f"{export_format}: {output}", markup=False)


def explain(
    model: Annotated[str, typer.Argument(help="A finished model's folder, or the id of a base model on this machine.")],
    image: Annotated[Path, typer.Argument(help="An image.")],
    label: Annotated[str, typer.Option(help="What to look for: any words.")],
    output: Annotated[Path, typer.Option(help="Folder for the maps and pictures.")],
) -> None:
    """Show where a model looks for a label in an image, before and after tuning: arrays and pictures."""
    run_core("explain", model, str(image), "--label", label, output=output)
    out.print(f"{output / 'overview.png'}", markup=False)


def interpolate(
    model: Annotated[str, typer.Argument(help="A finished model's folder, or the id of a tuned model of the service.")],
    alpha: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the tuned weights: 0 is the base model, 1 the tuned one.")
    ],
    output: Annotated[Path | None, typer.Option(help="The new folder; of a folder alone.")] = None,
) -> None:
    """Mix a tuned model with its base (WiSE-FT), without training again."""
    if Path(model).is_dir():
        if output is None:
            raise CliError("Name the new model's folder with --output.")
        _check_new(output)
        run_core("interpolate", model, "--alpha", str(alpha), output=output)
        out.print(f"Model: {output}", markup=False)
        return
    if output is not None:
        raise CliError(f"There is no folder {model!r}; a model of the service gets an id, and no --output.")
    with connect() as client:
        out.print(f"Model: {client.interpolate(model, alpha)['id']}", markup=False)


def convert(
    file: Annotated[Path, typer.Argument(help="A checkpoint: .pt, .pth, .bin, .safetensors.")],
    architecture: Annotated[
        str, typer.Option(help="open_clip's name (ViT-B-32), a JSON file of its own, or resnet50.")
    ],
    output: Annotated[Path | None, typer.Option(help="The new folder. Without: the models folder.")] = None,
    quick_gelu: Annotated[
        bool | None, typer.Option("--quick-gelu/--no-quick-gelu", help="Without: what the architecture says.")
    ] = None,
    normalisation: Annotated[
        Literal["openai", "imagenet"], typer.Option(help="Of the images that it was trained on.")
    ] = "openai",
) -> None:
    """Make a base model of a foreign CLIP's checkpoint, or of a ResNet's of torchvision, which is there for baselines.

    Only tensors are read; no code of the file is run.
    """
    folder = output or load_settings().models_location / file.stem.lower()
    if folder.exists():
        raise CliError(f"{folder} is there already; name another folder with --output.")
    options = [] if quick_gelu is None else ["--quick-gelu" if quick_gelu else "--no-quick-gelu"]
    run_core(
        "convert",
        str(file),
        "--architecture",
        architecture,
        "--normalisation",
        normalisation,
        *options,
        output=folder,
    )
    out.print(f"Base model: {folder}", markup=False)


def run_core(command: str, *arguments: str, output: Path, on_line: Callable[[str], None] | None = None) -> None:
    """Run a command of the core in a process of its own, which says on stderr what is wrong. Ends this one if it is.

    `on_line` hears what it says on stdout.
    """
    models_dir = load_settings().models_location.absolute()
    given = [command, *arguments, "--models-dir", str(models_dir), "--output", str(output.absolute())]
    started = [sys.executable, "-P", "-m", "alignclip_core.commands", *given]
    with subprocess.Popen(started, stdout=subprocess.PIPE if on_line else None, text=True) as process:
        for line in process.stdout or ():
            assert on_line is not None
            on_line(line)
    if process.returncode != 0:
        raise typer.Exit(1)


def _download(model: str, export_format: str, output: Path) -> None:
    """The service's export, unpacked; the folder is there only when it is complete."""
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent, prefix=".export-") as aside, connect() as client:
        archive = Path(aside) / "export.zip"
        with archive.open("wb") as file:
            client.export(model, export_format, file)
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(aside) / "folder")
        if output.is_dir():
            output.rmdir()  # it is empty
        shutil.move(Path(aside) / "folder", output)


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CliError(f"{folder} is there already and not empty; name a new folder.")
