"""open_clip's own hub layout: `open_clip.create_model_and_transforms("local-dir:FOLDER")` reads it.

The text tower is the base model's, QuickGELU stays in the configuration, the preprocessing is the model's own.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE
from alignclip_core.encoder.weights import read_weights
from alignclip_core.export.fitness import folder_of, model_config
from alignclip_core.finished_model import FinishedModel


def write(model: FinishedModel, folder: Path) -> None:
    """Configuration, weights, and where the text tower is Hugging Face's its configuration and tokenizer."""
    preprocessing = {
        "mean": list(model.preprocessing.mean),
        "std": list(model.preprocessing.std),
        "interpolation": model.preprocessing.interpolation,
        "resize_mode": model.preprocessing.resize_mode,
    }
    config = {"model_cfg": model_config(model.base_model, model.manifest or {}), "preprocess_cfg": preprocessing}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2))
    save_file(clip_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody but the owner read it
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (folder_of(model.base_model) / name).is_file():
            shutil.copyfile(folder_of(model.base_model) / name, folder / name)


def clip_weights(model: FinishedModel) -> dict[str, Tensor]:
    """The whole CLIP under open_clip's names: the base model's with the model's own image tower and logit scale."""
    weights = read_weights(folder_of(model.base_model) / WEIGHTS_FILE, lambda name: not name.startswith("visual."))
    weights |= {name: value.detach().cpu().contiguous() for name, value in model.image_encoder.state_dict().items()}
    if not math.isclose(weights["logit_scale"].exp().item(), model.logit_scale, rel_tol=1e-6):
        weights["logit_scale"] = torch.tensor(model.logit_scale).log()
    return weights
