"""A tuned model's folder on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alignclip_store import tables
from api.resources import Resources


@contextmanager
def local_folder(resources: Resources, model: tables.Model) -> Iterator[Path]:
    """Where the model's files are, or a copy of them during the block. Raises `ArtifactMissing`."""
    local = resources.artifacts.local_path(model.artifact_uri)
    if local is not None:
        yield local
        return
    with TemporaryDirectory(dir=resources.scratch, prefix="model-") as folder:
        yield resources.artifacts.fetch_folder(model.artifact_uri, Path(folder) / "model")
