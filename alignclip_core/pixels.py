"""Bytes or a picture -> uint8 pixels as a tensor -> what a tower takes: the steps of training and of serving."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from alignclip_core.images import ImageLimits, Preprocessing, decode_image, open_image

CROP_RATIO = (3 / 4, 4 / 3)  # torchvision's RandomResizedCrop, which the paper's code uses unchanged
CROP_TRIES = 10


def decode_pixels(content: bytes, limits: ImageLimits) -> UInt8[Tensor, "3 height width"]:
    """The pixels of `decode_image`, without the picture between: half the time for a JPEG. Raises `ImageRejected`."""
    if open_image(content, limits).format == "JPEG":
        try:
            pixels = decode_jpeg(content)
            assert isinstance(pixels, Tensor)  # a list is for a list
            return pixels
        except RuntimeError:
            pass  # Pillow says in words what is wrong with it, or is more patient
    return to_pixels(decode_image(content, limits))


def to_pixels(image: Image.Image) -> UInt8[Tensor, "3 height width"]:
    """An RGB picture's own pixels."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def prepare_image(image: Image.Image, preprocessing: Preprocessing) -> UInt8[Tensor, "3 size size"]:
    """`prepare_pixels` of an RGB picture."""
    return prepare_pixels(to_pixels(image), preprocessing)


def prepare_pixels(
    pixels: UInt8[Tensor, "3 height width"], preprocessing: Preprocessing
) -> UInt8[Tensor, "3 size size"]:
    """The picture at the model's size, within one level of open_clip's evaluation transform, not yet normalised."""
    size = preprocessing.image_size
    interpolation = InterpolationMode(preprocessing.interpolation)
    if preprocessing.resize_mode == "squash":
        sides = [size, size]
    elif preprocessing.resize_mode == "longest":
        share = size / max(pixels.shape[1:])
        sides = [max(1, round(side * share)) for side in pixels.shape[1:]]
    else:
        sides = [size]
    # On the tensor rather than a picture: five to eight times as fast as Pillow, on the calling thread alone.
    resized = F.resize(pixels, sides, interpolation=interpolation, antialias=True)
    cropped = F.center_crop(resized, [size, size])  # black where a side is shorter
    # Copied by numpy: torch wakes a thread for every core to copy one picture, and they spin on when they are done.
    return torch.from_numpy(np.ascontiguousarray(cropped.numpy()))


def random_crop(
    pixels: UInt8[Tensor, "3 height width"],
    size: int,
    *,
    scale: tuple[float, float],
    horizontal_flip: bool,
    interpolation: InterpolationMode,
    random: np.random.Generator,
) -> UInt8[Tensor, "3 size size"]:
    """A random part of the picture, scaled to a square and perhaps mirrored: torchvision's RandomResizedCrop."""
    left, top, width, height = crop_box(pixels.shape[2], pixels.shape[1], scale, random)
    # On the tensor rather than a picture: 1.3 to 1.9 times as fast, and within one level of Pillow's own.
    part = pixels[:, top : top + height, left : left + width]
    resized: Tensor = interpolate(part[None], (size, size), mode=interpolation.value, antialias=True)[0]
    return resized.flip(-1) if horizontal_flip and random.random() < 0.5 else resized


def crop_box(
    width: int, height: int, scale: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part of a picture of that size."""
    low, high = (math.log(ratio) for ratio in CROP_RATIO)
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*scale)
        ratio = math.exp(random.uniform(low, high))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(random.integers(width - crop_width, endpoint=True))
            top = int(random.integers(height - crop_height, endpoint=True))
            return left, top, crop_width, crop_height
    # The picture is longer than any ratio allows: its middle.
    crop_width = min(width, max(1, round(height * CROP_RATIO[1])))
    crop_height = min(height, max(1, round(width / CROP_RATIO[0])))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def normalise(
    images: UInt8[Tensor, "batch 3 size size"], preprocessing: Preprocessing
) -> Float[Tensor, "batch 3 size size"]:
    """The images on the scale that the tower was trained on, fp32, on their own device."""
    mean = torch.tensor(preprocessing.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device).view(3, 1, 1)
    return images.float().sub_(255 * mean).div_(255 * std)  # one conversion: half the time of a mixed subtraction
