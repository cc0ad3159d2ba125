"""A model as it serves: a folder's weights in its base model's tower, or the base model as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alignclip_core.algorithms import LearnedClasses, load_learned_classes
from alignclip_core.algorithms.cocoop import ConditionedContext
from alignclip_core.algorithms.dpl import DomainContext
from alignclip_core.base_models import BaseModel, find_base_model
from alignclip_core.calibration import Calibration
from alignclip_core.checkpoint import load_model, preprocessing_of, read_manifest
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import ImageEncoder, TextEncoder, build_image_encoder
from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.images import Preprocessing
from alignclip_core.prompts import embed_classes
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
    learned_classes: LearnedClasses | None = None  # what classifies in place of class texts, if anything

    @property
    def labels(self) -> tuple[str, ...]:
        """Display names in the order of the folder names, in which classes are numbered."""
        return tuple(name for _, name in sorted(self.class_names.items()))

    @property
    def calibration(self) -> Calibration | None:
        """Temperature and rejection threshold, where the manifest has them."""
        values = (self.manifest or {}).get("calibration")
        return None if values is None else Calibration(**values)

    @property
    def needs_image_features(self) -> bool:
        """Whether its class embeddings depend on the images that are asked about."""
        return isinstance(self.learned_classes, (ConditionedContext, DomainContext))

    @torch.no_grad()
    def class_embeddings_of(
        self,
        text_encoder: TextEncoder,
        labels: Sequence[str],
        *,
        templates: Sequence[str] | None = None,
        hyphens_to_spaces: bool | None = None,
        image_features: Float[Tensor, "images dim"] | None = None,
    ) -> Float[Tensor, "*images labels dim"]:
        """Class embeddings of any labels, by which this model classifies; fp32 on the CPU.

        Learned prompts take the place of the templates. A linear head knows its own labels; for others its tower's
        text head answers. CoCoOp gives embeddings for each image, DPL for all `image_features` as one domain.
        """
        learned = self.learned_classes
        if learned is None or not learned.knows(labels):
            return embed_classes(
                text_encoder,
                labels,
                self.templates if templates is None else templates,
                self.hyphens_to_spaces if hyphens_to_spaces is None else hyphens_to_spaces,
            ).cpu()
        features = torch.zeros(0, 0) if image_features is None else image_features
        return learned.finished_embeddings_of(text_encoder, labels, features)


def load_finished_model(folder: Path, base_model: BaseModel, device: str | torch.device = "cpu") -> FinishedModel:
    """The model of a folder that `save_model` or `save_checkpoint` wrote; its base gives the architecture.

    Raises `ArtifactCorrupt` when a hash or the base model does not fit.
    """
    saved = load_model(folder)
    _check_base(saved.manifest, base_model)
    config = FinetuneConfig.from_json(saved.manifest["config"])
    learned = None
    if saved.learned:
        learned = load_learned_classes(config, saved.learned, saved.manifest["logit_scale"]).to(device)
    encoder = build_image_encoder(base_model, device)
    encoder.preprocess = preprocessing_of(saved.manifest)  # as it was trained
    encoder.pool_by(saved.manifest["config"].get("pooling"))
    try:
        encoder.load_state_dict(saved.weights)
    except RuntimeError as error:
        raise ArtifactCorrupt(f"The weights in {folder.name} do not fit {base_model.id!r}: {error}") from error
    return FinishedModel(
        image_encoder=encoder,
        base_model=base_model,
        preprocessing=encoder.preprocess,
        logit_scale=saved.manifest["logit_scale"],
        class_names=saved.manifest["class_names"],
        templates=tuple(saved.manifest["templates"]),
        hyphens_to_spaces=saved.manifest["config"]["hyphens_to_spaces"],
        manifest=saved.manifest,
        learned_classes=learned,
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
