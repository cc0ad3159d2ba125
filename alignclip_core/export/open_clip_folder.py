"""open_clip's own hub layout: `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads it.

The text tower is the base model's, QuickGELU stays in the configuration, the preprocessing is the model's own.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, BaseModel
from alignclip_core.encoder.weights import read_weights
from alignclip_core.errors import BaseModelNotLocal, ExportUnfit
from alignclip_core.finished_model import FinishedModel


def write(model: FinishedModel, folder: Path) -> None:
    """Configuration, weights, and where the text tower is Hugging Face's its configuration and tokenizer."""
    preprocessing = {
        "mean": list(model.preprocessing.mean),
        "std": list(model.preprocessing.std),
        "interpolation": model.preprocessing.interpolation,
        "resize_mode": model.preprocessing.resize_mode,
    }
    config = {"model_cfg": model_config(model.base_model), "preprocess_cfg": preprocessing}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    save_file(clip_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody but the owner read it
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (_folder(model.base_model) / name).is_file():
            shutil.copyfile(_folder(model.base_model) / name, folder / name)


def check_fits(base_model: BaseModel) -> None:
    """Raises `ExportUnfit` for a base model that open_clip cannot build, which is the packaged starter."""
    if not (_folder(base_model) / CONFIG_FILE).is_file():
        raise ExportUnfit(
            f"{base_model.id!r} has a convolutional stem before its transformer, which neither open_clip nor "
            "transformers can build; export it as 'onnx'.",
            param="format",
        )


def model_config(base_model: BaseModel) -> dict[str, Any]:
    """open_clip's model_cfg of the base model, `quick_gelu` with it."""
    config: dict[str, Any] = json.loads((_folder(base_model) / CONFIG_FILE).read_text())["model_cfg"]
    return config


def clip_weights(model: FinishedModel) -> dict[str, Tensor]:
    """The whole CLIP under open_clip's names: the base model's with the model's own image tower and logit scale."""
    weights = read_weights(_folder(model.base_model) / WEIGHTS_FILE, lambda name: not name.startswith("visual."))
    weights |= {name: value.detach().cpu().contiguous() for name, value in model.image_encoder.state_dict().items()}
    if not math.isclose(weights["logit_scale"].exp().item(), model.logit_scale, rel_tol=1e-6):
        weights["logit_scale"] = torch.tensor(model.logit_scale).log()
    return weights


def _folder(base_model: BaseModel) -> Path:
    if base_model.folder is None:
        raise BaseModelNotLocal(f"The files of {base_model.id!r} are not on this machine.", param="model")
    return base_model.folder
