"""How far a tower's answers are from those of torch in fp32."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.encoder import ImageEncoder
from alignclip_core.runtimes.towers import ImageTower, PixelTower

MIN_COSINE = 0.9999  # of an image's features in both; less, and labels that are nearly tied change places
NUM_PROBES = 4
PROBE_DETAIL = 7  # patches of colour on a side


def min_cosine(reference: Float[Tensor, "images dim"], features: Float[Tensor, "images dim"]) -> float:
    """The smallest cosine between both features of one image; NaN features have none, which counts as -1."""
    return F.cosine_similarity(reference, features, dim=1).nan_to_num(-1).min().item()


@torch.no_grad()
def self_check(tower: ImageTower, encoder: ImageEncoder) -> float:
    """`min_cosine` over made-up pictures, against the encoder in fp32 on the CPU."""
    pixels = probes(encoder.preprocess.image_size)
    return min_cosine(PixelTower(encoder)(pixels), tower(pixels))


def probes(size: int) -> UInt8[Tensor, "images 3 {size} {size}"]:
    """Pictures of soft random colours, the same always."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(NUM_PROBES, 3, PROBE_DETAIL, PROBE_DETAIL, generator=random)
    soft = F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    return (255 * soft).to(torch.uint8)
