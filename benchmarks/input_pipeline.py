"""JPEG bytes to a training crop on one core, against torchvision's default (Pillow decode, RandomResizedCrop, flip)."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from alignclip_core.images import DEFAULT_LIMITS, Preprocessing
from alignclip_core.pixels import decode_pixels, normalise, random_crop
from benchmarks.rows import Row, machine

NUM_IMAGES = 200
SIZE = (500, 375)
NUM_ROUNDS = 5


def measure() -> list[Row]:
    """Images a second of both ways, alternating, and their ratio by the best round of each.

    Seconds are those of the processor, so that what else runs on the machine counts little.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    files = photos(NUM_IMAGES)
    ways: dict[str, Callable[[bytes], object]] = {"default": _default(), "ours": _ours()}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(NUM_ROUNDS):
        for name, way in ways.items():
            started = time.thread_time()
            for content in files:
                way(content)
            best[name] = max(best[name], len(files) / (time.thread_time() - started))
    torch.set_num_threads(threads)
    detail = (
        f"JPEG {SIZE[0]}x{SIZE[1]} to 224, one core's seconds, best of {NUM_ROUNDS} rounds of {NUM_IMAGES}; {machine()}"
    )
    return [
        Row("input_pipeline_images_per_second_per_core", best["ours"], "images/s", detail),
        Row("input_pipeline_ratio_over_torchvision_default", best["ours"] / best["default"], "ratio", detail),
    ]


def photos(num_images: int) -> list[bytes]:
    """JPEG files with the detail of photographs: smooth random fields with noise over them."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(num_images):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, dtype=np.int16) + random.integers(-12, 13, (SIZE[1], SIZE[0], 3))
        buffer = io.BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _default() -> Callable[[bytes], object]:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.7, 1.0), interpolation=InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
        ]
    )
    return lambda content: transform(Image.open(io.BytesIO(content)).convert("RGB"))


def _ours() -> Callable[[bytes], object]:
    random = np.random.default_rng(0)
    preprocess = Preprocessing(image_size=224, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))

    def load(content: bytes) -> object:
        crop = random_crop(
            decode_pixels(content, DEFAULT_LIMITS),
            224,
            scale=(0.7, 1.0),
            horizontal_flip=True,
            interpolation=InterpolationMode.BICUBIC,
            random=random,
        )
        return normalise(crop[None], preprocess)

    return load
