"""Which format can hold which architecture. Reads configurations, no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from alignclip_core.base_models import CONFIG_FILE, BaseModel
from alignclip_core.config import PROMPT_LEARNERS
from alignclip_core.errors import BaseModelNotLocal, ExportUnfit
from alignclip_core.export.formats import ExportFormat

PROMPTS_BY_IMAGE = ("cocoop", "dpl")  # algorithms
# What transformers' CLIPModel can be told; every other option of open_clip's towers must keep its default.
VISION_OPTIONS = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "patch_dropout"}
TEXT_OPTIONS = {"context_length", "width", "heads", "layers", "mlp_ratio", "output_tokens"}

_POOL_TYPES = {"class_token": "tok", "average": "avg"}  # the config's words and open_clip's


def check_fits(
    base_model: BaseModel, export_format: ExportFormat, manifest: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Raises `ExportUnfit` when the format cannot hold the architecture; it names what can.

    `manifest`: that of a tuned model, which may pool in another way than its base.
    """
    _check_learned_classes(export_format, manifest)
    if export_format == "onnx":
        return
    if not base_model.has_texts:
        raise ExportUnfit(
            f"{base_model.id!r} is an image tower alone, and {export_format} holds a text tower beside it; export it "
            "as 'onnx'.",
            param="format",
        )
    if not (folder_of(base_model) / CONFIG_FILE).is_file():
        raise ExportUnfit(
            f"{base_model.id!r} has a convolutional stem before its transformer, which neither open_clip nor "
            "transformers can build; export it as 'onnx'.",
            param="format",
        )
    config = model_config(base_model, manifest)
    if config.get("text_quick_gelu", config.get("quick_gelu")) != config.get("quick_gelu"):
        raise ExportUnfit(
            f"The towers of {base_model.id!r} have different activations (GELU and QuickGELU), which neither open_clip "
            "nor transformers can build; export it as 'onnx'.",
            param="format",
        )
    if export_format == "huggingface":
        reason = _why_no_clip_model(config) or _why_no_image_processor(base_model, manifest)
        if reason:
            raise ExportUnfit(
                f"transformers' CLIPModel cannot be {base_model.id!r}: {reason}. Export it as 'open_clip' or 'onnx'.",
                param="format",
            )


def model_config(base_model: BaseModel, manifest: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
    """open_clip's model_cfg: the base model's, `quick_gelu` with it, and the tuned model's own pooling."""
    config: dict[str, Any] = json.loads((folder_of(base_model) / CONFIG_FILE).read_text())["model_cfg"]
    pooling = manifest.get("config", {}).get("pooling")
    if pooling is not None:
        config["vision_cfg"]["pool_type"] = _POOL_TYPES[pooling]
    return config


def folder_of(base_model: BaseModel) -> Path:
    """Where the base model's files are. Raises `BaseModelNotLocal`."""
    if base_model.folder is None:
        raise BaseModelNotLocal(f"The files of {base_model.id!r} are not on this machine.", param="model")
    return base_model.folder


def _check_learned_classes(export_format: ExportFormat, manifest: Mapping[str, Any]) -> None:
    """The text tower of a format knows nothing of learned prompts or a linear head; ONNX takes class embeddings."""
    config = manifest.get("config", {})
    algorithm = config.get("algorithm")
    if algorithm in PROMPTS_BY_IMAGE:
        raise ExportUnfit(
            f"{algorithm} makes its prompts anew for the images that it is asked about, which no format can hold; "
            "classify with this model here, or export one that was tuned by coop.",
            param="format",
        )
    learned = "learned prompts" if algorithm in PROMPT_LEARNERS else "a linear head"
    if export_format != "onnx" and (algorithm in PROMPT_LEARNERS or config.get("head") == "linear"):
        raise ExportUnfit(
            f"The model classifies by {learned}, for which {export_format} has no place; export it as 'onnx', "
            "beside which its class embeddings stand as they are served.",
            param="format",
        )


def _why_no_image_processor(base_model: BaseModel, manifest: Mapping[str, Any]) -> str | None:
    """CLIPImageProcessor resizes the shortest edge and crops, or squashes."""
    config = json.loads((folder_of(base_model) / CONFIG_FILE).read_text())
    preprocessing = manifest.get("preprocessing") or config.get("preprocess_cfg", {})
    mode = preprocessing.get("resize_mode", "shortest")
    return None if mode in ("shortest", "squash") else f"its images are resized with {mode!r}"


def _why_no_clip_model(config: dict[str, Any]) -> str | None:
    """CLIPModel has a plain vision transformer and OpenAI's text transformer."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if text.get("hf_model_name"):
        return f"its text tower is {text['hf_model_name']}"
    if not isinstance(vision.get("layers", 12), int):
        return "its image tower is a ResNet"
    if config.get("multimodal_cfg"):
        return "it has a decoder of captions"
    for tower, options, known, defaults in (
        ("image", vision, VISION_OPTIONS, asdict(CLIPVisionCfg())),
        ("text", text, TEXT_OPTIONS, asdict(CLIPTextCfg())),
    ):
        for name, value in options.items():
            if name not in known and value != defaults.get(name):
                return f"its {tower} tower has {name} = {value!r}"
    return None
