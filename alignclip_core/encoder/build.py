"""A base model's folder to towers, each without building the other. Weights are fp32, whatever the file holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, _build_text_tower, _build_vision_tower
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transform import PreprocessCfg
from torch import nn

from alignclip_core.base_models import CONFIG_FILE, STARTER_FOLDER, WEIGHTS_FILE, BaseModel
from alignclip_core.encoder import plain_resnet, starter
from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.encoder.resnet import ResNetEncoder
from alignclip_core.encoder.text_tower import TextEncoder, Tokenizer, hugging_face_tokenizer
from alignclip_core.encoder.weights import fill, read_weights
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnfit
from alignclip_core.images import Preprocessing

PREPROCESS_FIELDS = ("mean", "std", "interpolation", "resize_mode")  # of open_clip's preprocess_cfg


@dataclass(frozen=True)
class ClipModel:
    """Both towers of one base model."""

    image_encoder: ImageEncoder
    text_encoder: TextEncoder


def build_model(card: BaseModel, device: str | torch.device = "cpu") -> ClipModel:
    """Both towers. Raises what `build_image_encoder` and `build_text_encoder` raise."""
    return ClipModel(build_image_encoder(card, device), build_text_encoder(card, device))


def build_image_encoder(card: BaseModel, device: str | torch.device = "cpu") -> ImageEncoder:
    """The image tower alone.

    Raises `BaseModelNotLocal` without files, `BaseModelUnfit` when they are damaged or the tower is neither a plain ViT
    nor a ResNet.
    """
    folder = _folder(card)
    if folder == STARTER_FOLDER:
        return starter.build_image_encoder(folder).to(device)
    if not card.has_texts:
        return plain_resnet.build_image_encoder(folder, card.id).to(device)
    config, preprocess = _read_config(folder)
    path = folder / WEIGHTS_FILE
    # Built without memory and without random numbers: every tensor comes from the file.
    with torch.device("meta"):
        visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"], config.get("quick_gelu", False))
    weights = read_weights(path, lambda name: name.startswith("visual.") or name == "logit_scale")
    if "logit_scale" not in weights:
        raise BaseModelUnfit(f"{path} holds no logit_scale; it is no CLIP of open_clip's layout.", param="model")
    logit_scale = weights.pop("logit_scale").exp().item()
    fill(visual, {name.removeprefix("visual."): value for name, value in weights.items()}, source=path)
    encoder = ResNetEncoder if isinstance(visual, ModifiedResNet) else ImageEncoder
    return encoder(visual, logit_scale=logit_scale, preprocess=preprocess).to(device)


def build_text_encoder(card: BaseModel, device: str | torch.device = "cpu") -> TextEncoder:
    """The frozen text tower with its tokenizer, alone. Raises as `build_image_encoder` does.

    That of a model without one refuses every text.
    """
    folder = _folder(card)
    if not card.has_texts:
        return plain_resnet.build_text_encoder(card.id, card.text_model).to(device)
    with torch.random.fork_rng(devices=[]):  # the random weights that the file's replace leave no trace
        if folder == STARTER_FOLDER:
            return starter.build_text_encoder(card.text_model).to(device)
        config, _ = _read_config(folder)
        tower, tokenizer = _text_tower(folder, config)
    weights = read_weights(folder / WEIGHTS_FILE, lambda name: not name.startswith(("visual.", "logit_")))
    fill(tower, {name.removeprefix("text."): value for name, value in weights.items()}, source=folder / WEIGHTS_FILE)
    return TextEncoder(tower, tokenizer, text_model=card.text_model).to(device)


def _text_tower(folder: Path, config: dict[str, Any]) -> tuple[nn.Module, Tokenizer]:
    text_config = CLIPTextCfg(**config["text_cfg"])
    if not text_config.hf_model_name:
        # SLIP's towers differ in it, which open_clip has no word for.
        quick_gelu = config.get("text_quick_gelu", config.get("quick_gelu", False))
        tower = _build_text_tower(config["embed_dim"], text_config, quick_gelu)
        return tower, open_clip.get_tokenizer(f"local-dir:{folder}")
    # `pull_model` puts the text model's own configuration and tokenizer beside the weights.
    tower = HFTextEncoder(
        str(folder),
        output_dim=config["embed_dim"],
        pooler_type=text_config.hf_pooler_type,
        proj_type=text_config.hf_proj_type,
        pretrained=False,
    )
    return tower, hugging_face_tokenizer(folder, text_config.context_length)


def _folder(card: BaseModel) -> Path:
    if card.folder is None:
        raise BaseModelNotLocal(
            f"The files of {card.id!r} are not on this machine; fetch them with: alignclip models pull {card.id}",
            param="model",
        )
    return card.folder


def _read_config(folder: Path) -> tuple[dict[str, Any], Preprocessing]:
    """model_cfg and preprocess_cfg of open_clip's hub layout."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise BaseModelNotLocal(f"{path} is missing; a base model's folder holds it.", param="model")
    try:
        content = json.loads(path.read_text())
        config = content["model_cfg"]
        image_size = CLIPVisionCfg(**config["vision_cfg"]).image_size
    except (ValueError, KeyError, TypeError) as error:
        raise BaseModelUnfit(f"{path} holds no open_clip configuration: {error!r}.", param="model") from error
    if not isinstance(image_size, int):
        raise BaseModelUnfit(f"{path}: image_size is {image_size}; only square images are supported.", param="model")
    given = content.get("preprocess_cfg", {})
    defaults = PreprocessCfg(**{name: given[name] for name in PREPROCESS_FIELDS if name in given})
    return config, Preprocessing(
        image_size=image_size,
        mean=tuple(defaults.mean),
        std=tuple(defaults.std),
        interpolation=defaults.interpolation,
        resize_mode=defaults.resize_mode,
    )
