"""What a fine-tune will take, from its config and from what earlier ones took. No tower is loaded, no GPU touched.

Peak memory is counted, not measured: of every trained parameter its value, its gradient, two moments of the optimizer
and the running average, in 32 bits; and the activations of one batch by the usual count for a transformer block
(Korthikanti et al. 2022), in 32 bits too. Autocast needs less, and a device's own libraries need some hundred MB more.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from alignclip_core.base_models import CONFIG_FILE, STARTER_FOLDER, WEIGHTS_FILE, BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import starter
from alignclip_store.speed import STARTUP_SECONDS, Speed

FLOAT_BYTES = 4
COPIES_IN_TRAINING = 5  # value, gradient, two moments, running average
COPIES_IN_CHECKPOINT = 4  # value, two moments, running average
FLOATS_PER_TOKEN_AND_CHANNEL = 17  # kept by one block for its backward pass
FLOATS_PER_ATTENTION = 2.5  # scores, their softmax, and a mask
ALIGNED_SHARE = 1.3  # the D-V branch and the teacher's attention beside the main branch
CHANNELS_PER_HEAD = 64


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Size of an image tower."""

    num_parameters: int
    num_floats_per_image: float  # kept for the backward pass

    @classmethod
    def of(cls, base_model: BaseModel) -> Tower:
        """Read from the headers of the base model's files."""
        folder = base_model.folder
        assert folder is not None  # only local ones get here
        if folder == STARTER_FOLDER:  # the one that is no folder of open_clip's; its file holds the image tower alone
            num_parameters = _num_parameters(folder / starter.WEIGHTS_FILE)
            return cls(num_parameters=num_parameters, num_floats_per_image=_floats_per_image(starter.VISION))
        vision = json.loads((folder / CONFIG_FILE).read_text())["model_cfg"]["vision_cfg"]
        num_parameters = _num_parameters(folder / WEIGHTS_FILE, prefix="visual.")
        return cls(num_parameters=num_parameters, num_floats_per_image=_floats_per_image(vision))


def _num_parameters(weights: Path, prefix: str = "") -> int:
    with safe_open(weights, framework="numpy") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - no mapping
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def _floats_per_image(vision: dict[str, Any]) -> float:
    size, width = vision.get("image_size", 224), vision.get("width", 768)
    if not isinstance(vision.get("layers"), int):  # a ResNet: its first stages, at half the size, outweigh the rest
        return float(FLOATS_PER_TOKEN_AND_CHANNEL * (size // 2) ** 2 * width)
    num_tokens = (size // vision.get("patch_size", 16)) ** 2 + 1
    num_heads = max(width // vision.get("head_width", CHANNELS_PER_HEAD), 1)
    block = FLOATS_PER_TOKEN_AND_CHANNEL * num_tokens * width + FLOATS_PER_ATTENTION * num_heads * num_tokens**2
    return float(vision["layers"] * block)


def train_seconds(config: FinetuneConfig, speed: Speed) -> float:
    """Seconds of one run from claim to stored model; evaluations between the steps are left out."""
    return STARTUP_SECONDS + config.num_steps * config.global_batch_size / speed.images_per_second


def peak_memory_bytes(config: FinetuneConfig, tower: Tower) -> int:
    """Memory of the training's device at its highest, as the module's docstring counts it."""
    share = ALIGNED_SHARE if config.layer_alignment_weight or config.similarity_alignment_weight else 1.0
    num_images = config.global_batch_size  # micro batches that are chosen on the device ("auto") only make it less
    if config.micro_batch_size != "auto":
        num_images = min(num_images, config.micro_batch_size)
    activations = num_images * tower.num_floats_per_image * share
    return int(FLOAT_BYTES * (COPIES_IN_TRAINING * tower.num_parameters + activations))


def disk_bytes(tower: Tower, *, num_checkpoints: int) -> int:
    """What the artifact store takes for resume points and model; the dataset comes on top, once per running job."""
    return FLOAT_BYTES * tower.num_parameters * (COPIES_IN_CHECKPOINT * num_checkpoints + 1)
