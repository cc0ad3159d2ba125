"""A model as it serves: a folder's weights in its base model's tower, or the base model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignclip_core.base_models import BaseModel, find_base_model
from alignclip_core.checkpoint import load_model, preprocessing_of, read_manifest
from alignclip_core.encoder import ImageEncoder, build_image_encoder
from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.images import Preprocessing
from alignclip_core.run_dir import MANIFEST_FILE


@dataclass(frozen=True, eq=False)
class FinishedModel:
    """An image tower with what serving needs to know beside it."""

    image_encoder: ImageEncoder
    base_model: BaseModel
    preprocessing: Preprocessing
    logit_scale: float
    class_names: Mapping[str, str] = field(default_factory=dict)  # folder to display name; a base model has none
    templates: tuple[str, ...] = ()
    hyphens_to_spaces: bool = False
    manifest: Mapping[str, Any] | None = None  # None: the base model as it is

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names in the order of the folder names, in which classes are numbered."""
        return tuple(name for _, name in sorted(self.class_names.items()))


def load_finished_model(folder: Path, base_model: BaseModel, device: str | torch.device = "cpu") -> FinishedModel:
    """The model of a folder that `save_model` or `save_checkpoint` wrote; its base gives the architecture.

    Raises `ArtifactCorrupt` when a hash or the base model does not fit.
    """
    saved = load_model(folder)
    _check_base(saved.manifest, base_model)
    encoder = build_image_encoder(base_model, device)
    encoder.pool_by(saved.manifest["config"].get("pooling"))
    try:
        encoder.load_state_dict(saved.weights)
    except RuntimeError as error:
        raise ArtifactCorrupt(f"The weights in {folder.name} do not fit {base_model.id!r}: {error}") from error
    return FinishedModel(
        image_encoder=encoder,
        base_model=base_model,
        preprocessing=preprocessing_of(saved.manifest),
        logit_scale=saved.manifest["logit_scale"],
        class_names=saved.manifest["class_names"],
        templates=tuple(saved.manifest["templates"]),
        hyphens_to_spaces=saved.manifest["config"]["hyphens_to_spaces"],
        manifest=saved.manifest,
    )


def load_base_model(base_model: BaseModel, device: str | torch.device = "cpu") -> FinishedModel:
    """The base model as it is, zero-shot."""
    encoder = build_image_encoder(base_model, device)
    return FinishedModel(encoder, base_model, encoder.preprocess, encoder.logit_scale, templates=base_model.templates)


def open_model(name: str, models_dir: Path, device: str | torch.device = "cpu") -> FinishedModel:
    """The model of a folder with a manifest, else the base model of that id.

    Raises `BaseModelUnknown`, `BaseModelNotLocal` and `ArtifactCorrupt`.
    """
    folder = Path(name)
    if (folder / MANIFEST_FILE).is_file():
        base_model = find_base_model(read_manifest(folder)["base_model"], models_dir)
        return load_finished_model(folder, base_model, device)
    if folder.is_dir():
        raise ArtifactCorrupt(f"{folder} has no {MANIFEST_FILE}; a finished model's folder holds it.")
    return load_base_model(find_base_model(name, models_dir), device)


def _check_base(manifest: Mapping[str, Any], base_model: BaseModel) -> None:
    for name, own in (("base_model", base_model.id), ("text_model", base_model.text_model)):
        if manifest[name] != own:
            raise ArtifactCorrupt(
                f"The model was tuned from {name} {manifest[name]!r}, but {own!r} was given; "
                "its features would not fit the texts."
            )
