"""Torch runs the image tower: in fp32 as the method defines it, with bf16 weights, or compiled on a GPU."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from alignclip_core.encoder import ImageEncoder
from alignclip_core.runtimes.towers import PixelTower, Precision, Runtime

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchTower:
    """The tower on one device. Its weights are converted, which is faster than autocast by far on a CPU."""

    runtime: Runtime = "torch"

    def __init__(
        self, encoder: ImageEncoder, precision: Precision = "fp32", device: str | torch.device = "cpu"
    ) -> None:
        self.precision = precision
        self._device = torch.device(device)
        if precision != "fp32":
            encoder = copy.deepcopy(encoder)
        tower = PixelTower(encoder.requires_grad_(False).to(self._device, DTYPES[precision]))
        self.num_bytes = sum(value.nbytes for value in tower.state_dict().values())
        # A CPU gains 2-4 % by compiling and takes half a minute for it.
        self._run = torch.compile(tower, dynamic=True) if self._device.type == "cuda" else tower

    @torch.no_grad()  # not inference_mode, under which bf16 takes six times as long on a CPU
    def __call__(self, pixels: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32 on the CPU."""
        features: Tensor = self._run(pixels.to(self._device))
        return features.float().cpu()
