"""A model to a zip in another library's form, made by a process of its own.

Tracing a model for ONNX changes settings of torch under which others would classify, and takes memory that a server
never gives back; both end with the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import alignclip_core
from alignclip_core.base_models import BaseModel
from alignclip_core.export.fitness import check_fits
from alignclip_core.export.formats import ExportFormat
from alignclip_core.parent_watch import PARENT_VARIABLE
from api.errors import ExportFailed
from api.model_files import local_folder
from api.resources import Resources
from api.served_models import find_model

EXPORT_SECONDS = 900.0  # a ViT-L/14 takes about a minute; a process that takes longer hangs


def build_export(resources: Resources, owner: str, model_id: str, export_format: ExportFormat) -> IO[bytes]:
    """The zip, open for reading and with no name any more: it is gone when it is closed.

    Raises `ModelNotFound`, and `ExportUnfit` before anything is made.
    """
    model = find_model(resources, owner, model_id)
    if isinstance(model, BaseModel):
        check_fits(model, export_format)
        return _make_zip(resources, model.id, export_format)
    check_fits(resources.models.base_model(model.base_model), export_format, model.manifest)
    with local_folder(resources, model) as folder:
        return _make_zip(resources, str(folder), export_format)


def _make_zip(resources: Resources, model: str, export_format: ExportFormat) -> IO[bytes]:
    with TemporaryDirectory(dir=resources.scratch, prefix="export-") as name:
        folder, archive = Path(name) / "out", Path(name) / "export.zip"
        _run_core(resources, model, export_format, folder)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:  # weights do not get smaller
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                packed.write(file, file.relative_to(folder))
        return archive.open("rb")


def _run_core(resources: Resources, model: str, export_format: ExportFormat, folder: Path) -> None:
    models_dir = resources.settings.models_location.absolute()
    options = ["--format", export_format, "--models-dir", str(models_dir), "--output", str(folder)]
    command = [sys.executable, "-P", "-m", "alignclip_core.commands", "export", model, *options]
    try:
        done = subprocess.run(
            command,
            env=_environment(resources),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=EXPORT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportFailed(f"The export was not done after {EXPORT_SECONDS:.0f} seconds; it was ended.") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ExportFailed(f"The export failed: {lines[-1].removeprefix('alignclip: ')}")


def _environment(resources: Resources) -> dict[str, str]:
    """No secret of the service, no hub, and whose death ends the process."""
    passed = {name: value for name, value in os.environ.items() if not name.startswith(("ALIGNCLIP_", "AWS_"))}
    if resources.settings.threads is not None:
        passed["OMP_NUM_THREADS"] = str(resources.settings.threads)
    return passed | {
        "PYTHONPATH": str(Path(alignclip_core.__file__).parent.parent),
        "HF_HUB_OFFLINE": "1",
        PARENT_VARIABLE: str(os.getpid()),
    }
