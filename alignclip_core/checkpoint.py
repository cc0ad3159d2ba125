"""Weights on disk: safetensors + manifest.json (+ resume state), complete when the folder has its name.

A checkpoint and a finished model have the same form, and one loader reads both; a checkpoint has `resume/` beside.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alignclip_core import faults
from alignclip_core.base_models import BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.images import Preprocessing
from alignclip_core.run_dir import MANIFEST_FILE, MANIFEST_FORMAT_VERSION, WEIGHTS_FILE, ClassSimilarity

STATE_FILE = "resume/state.pt"
LEARNED = "learned.classes."  # begins the names of weights that are not the tower's
PART = ".part"  # ends the name of a folder that is not complete
PACKAGES = ("torch", "torchvision", "open_clip_torch", "safetensors", "numpy", "pillow")
HASH_CHUNK_BYTES = 2**22


@dataclass(frozen=True)
class SavedModel:
    """What a folder of `save_model` or `save_checkpoint` holds."""

    weights: dict[str, Tensor]  # the image tower's state dict, open_clip's names
    manifest: dict[str, Any]
    learned: dict[str, Tensor] = field(default_factory=dict)  # what classifies in place of class texts, if anything


def make_manifest(
    config: FinetuneConfig,
    base_model: BaseModel,
    similarity: ClassSimilarity,
    *,
    preprocessing: Preprocessing,
    logit_scale: float,
    step: int,
    result: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that is needed to serve the weights, but for the base model's own files."""
    manifest: dict[str, Any] = {
        "format_version": MANIFEST_FORMAT_VERSION,
        "base_model": base_model.id,
        "text_model": base_model.text_model,
        "class_names": dict(config.class_names),
        "trained_classes": list(config.trained_classes),
        "templates": list(config.templates),
        "config": config.to_json(),
        "preprocessing": asdict(preprocessing) | {"mean": list(preprocessing.mean), "std": list(preprocessing.std)},
        "logit_scale": logit_scale,
        "similarity_sha256": similarity.sha256,
        "step": step,
        "num_steps": config.num_steps,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }
    return manifest if result is None else manifest | {"result": result}


def save_model(folder: Path, weights: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write aside, fsync, rename: the folder exists only when it is complete. An older one of that name is replaced."""
    _save(folder, weights, manifest, state=None)


def save_checkpoint(
    folder: Path, weights: Mapping[str, Tensor], manifest: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """`save_model` with what a trainer needs to go on: plain values and tensors."""
    _save(folder, weights, manifest, state)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the folder says of its weights. Raises `ArtifactCorrupt`."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{folder} has no readable {MANIFEST_FILE} ({error}).") from error
    if manifest.get("format_version") != MANIFEST_FORMAT_VERSION:
        raise ArtifactCorrupt(
            f"{folder.name} has manifest format {manifest.get('format_version')!r}; this version reads "
            f"{MANIFEST_FORMAT_VERSION}."
        )
    return manifest


def load_model(folder: Path) -> SavedModel:
    """The weights and manifest of a model or checkpoint. Raises `ArtifactCorrupt` when they don't fit each other."""
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS_FILE
    _check_hash(weights, manifest["weights_sha256"])
    tensors = load_file(weights)
    learned = {name.removeprefix(LEARNED): tensors.pop(name) for name in list(tensors) if name.startswith(LEARNED)}
    return SavedModel(tensors, manifest, learned)


def load_checkpoint(folder: Path) -> tuple[SavedModel, dict[str, Any]]:
    """A checkpoint with its resume state, on the CPU. Raises `ArtifactCorrupt`."""
    saved = load_model(folder)
    if "resume_sha256" not in saved.manifest:
        raise ArtifactCorrupt(f"{folder.name} is a finished model, not a checkpoint: it has no {STATE_FILE}.")
    _check_hash(folder / STATE_FILE, saved.manifest["resume_sha256"])
    return saved, torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)


def preprocessing_of(manifest: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that a manifest records."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in manifest["preprocessing"].items()
    }
    return Preprocessing(**values)


def sweep_parts(parent: Path) -> None:
    """Remove what a killed trainer left unfinished in a folder. Only its one trainer may call this."""
    for path in parent.glob(f".*{PART}") if parent.is_dir() else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _save(
    folder: Path, weights: Mapping[str, Tensor], manifest: Mapping[str, Any], state: Mapping[str, Any] | None
) -> None:
    aside = folder.with_name(f".{folder.name}.{os.getpid()}{PART}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        hashes = {"weights_sha256": _write_weights(aside / WEIGHTS_FILE, weights)}
        if state is not None:
            hashes["resume_sha256"] = _write_state(aside / STATE_FILE, state)
            faults.reach("mid_checkpoint_write")
        (aside / MANIFEST_FILE).write_text(json.dumps({**manifest, **hashes}, indent=2))
        for path in [*aside.rglob("*"), aside]:
            _fsync(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    _fsync(folder.parent)


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> str:
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), os.strerror(int(number[1])), path) if number else error) from error
    path.chmod(0o644)  # safetensors lets nobody but the owner read it
    return _hash(path)


def _write_state(path: Path, state: Mapping[str, Any]) -> str:
    path.parent.mkdir()
    with path.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # hides a full disk behind an error of its own
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from error
    return _hash(path)


def _check_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise ArtifactCorrupt(f"{path.parent.name}/{path.name} is missing.")
    found = _hash(path)
    if found != expected:
        raise ArtifactCorrupt(
            f"{path.parent.name}/{path.name} has the hash {found[:12]}, but its manifest says {expected[:12]}: "
            "the file was cut off or changed; fetch it again."
        )


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
