"""The catalogue of base models: id, source, templates, learning rate, steps. Loads no torch.

A base model is a folder: the packaged starter, or `MODELS_DIR/<id>/` with open_clip's own file names
(`open_clip_config.json`, `open_clip_model.safetensors`) and, if wanted, a `card.json` with fields of `BaseModel`.
One without a text tower has timm's file names instead (`config.json`, `model.safetensors`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from alignclip_core.errors import BaseModelNotLocal, BaseModelUnknown

STARTER_FOLDER = Path(__file__).parent / "models" / "starter"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
CARD_FILE = "card.json"
IMAGE_ONLY_CONFIG_FILE = "config.json"
IMAGE_ONLY_WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model that can be fine-tuned: where its files are and what its card advises."""

    id: str  # no "/": it stands in URLs
    folder: Path | None = None  # None: known, but not on this machine
    architecture: str | None = None  # open_clip's model name (QuickGELU is part of it), for `models pull`
    pretrained: str | None = None  # open_clip's tag of the weights, for `models pull`
    has_texts: bool = True  # False: an image tower alone, of timm; the two above are timm's then
    text_model: str = ""  # names the frozen text tower: equal names give equal text features
    templates: tuple[str, ...] = ("a photo of a {}.",)
    learning_rate: float = 5e-6  # the paper's, for ViT-B/16
    num_steps: int = 5000  # the paper's
    preset: str | None = None  # the preset that serves best here; None: paper
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # the card's own values within a preset
    frozen_modules: tuple[str, ...] = ()  # image-tower parameter prefixes that stay as they are
    licence: str = ""
    description: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine."""
        return self.folder is not None


# An attention pool is the one layer of a ResNet whose attention can be aligned.
RESNET_PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {preset: {"num_aligned_layers": 1} for preset in ("paper", "authors_code")}
)


def _openai(name: str, architecture: str, presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> BaseModel:
    return BaseModel(
        id=f"{name}-openai",
        architecture=f"{architecture}-quickgelu",
        pretrained="openai",
        text_model=f"{architecture}-quickgelu/openai",
        presets=presets,
        licence="MIT",
        description=f"OpenAI's CLIP {architecture} at 224 pixels.",
    )


PULLABLE: tuple[BaseModel, ...] = (
    _openai("vit-b-16", "ViT-B-16"),
    _openai("vit-b-32", "ViT-B-32"),
    _openai("vit-l-14", "ViT-L-14"),
    _openai("rn50", "RN50", RESNET_PRESETS),
    BaseModel(
        id="resnet50-imagenet",
        architecture="resnet50",
        pretrained="tv_in1k",
        has_texts=False,
        text_model="resnet50-imagenet",
        learning_rate=5e-5,  # DomainBed's
        licence="BSD-3-Clause",
        description="torchvision's first ResNet-50 of ImageNet, for baselines: it has no text tower.",
    ),
)
"""Models that `alignclip models pull` fetches from a hub."""


def list_base_models(models_dir: Path) -> list[BaseModel]:
    """All known models, the starter first; those whose files are on this machine have a folder."""
    found = {"starter": read_card(STARTER_FOLDER, "starter")}
    found |= {model.id: model for model in PULLABLE}
    for folder in sorted(models_dir.glob("*")) if models_dir.is_dir() else []:
        if is_whole(folder):
            known = found.get(folder.name)
            found[folder.name] = replace(known, folder=folder) if known else read_card(folder, folder.name)
    return list(found.values())


def find_base_model(model_id: str, models_dir: Path, allowed: Collection[str] | None = None) -> BaseModel:
    """The local model of that id, if it is `allowed`; None: every one is.

    Raises `BaseModelUnknown` or `BaseModelNotLocal`, each saying what would do.
    """
    if allowed is not None and model_id not in allowed:
        known = ", ".join(allowed) or "none"
        raise BaseModelUnknown(f"This service does not allow {model_id!r}; it allows: {known}.", param="model")
    models = {model.id: model for model in list_base_models(models_dir)}
    if model_id not in models:
        near = difflib.get_close_matches(model_id, models, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(models)}."
        raise BaseModelUnknown(f"No base model {model_id!r}; {hint}", param="model")
    if not models[model_id].is_local:
        raise BaseModelNotLocal(
            f"The files of {model_id!r} are not on this machine; fetch them with: alignclip models pull {model_id}",
            param="model",
        )
    return models[model_id]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a model's configuration and weights."""
    has_both_towers = (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()
    return has_both_towers or _is_image_only(folder)


def read_card(folder: Path, model_id: str) -> BaseModel:
    """The model of a folder; fields that its card leaves out keep their defaults."""
    card = folder / CARD_FILE
    values: dict[str, Any] = json.loads(card.read_text()) if card.is_file() else {}
    known = {f.name for f in fields(BaseModel)} - {"id", "folder"}
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
    }
    values["has_texts"] = (folder / CONFIG_FILE).is_file() or not _is_image_only(folder)
    values.setdefault("text_model", model_id)
    if _is_resnet(folder):
        values.setdefault("presets", RESNET_PRESETS)
    return BaseModel(id=model_id, folder=folder, **values)


def _is_image_only(folder: Path) -> bool:
    """Whether timm's files are there, whose configuration names an architecture; other libraries share their names."""
    if not (folder / IMAGE_ONLY_WEIGHTS_FILE).is_file():
        return False
    try:
        return "architecture" in json.loads((folder / IMAGE_ONLY_CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return False


def _is_resnet(folder: Path) -> bool:
    """Whether open_clip's configuration there has a number of layers for each stage; a damaged one is told later."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        return isinstance(config["model_cfg"]["vision_cfg"]["layers"], list)
    except (OSError, ValueError, KeyError, TypeError):
        return False
