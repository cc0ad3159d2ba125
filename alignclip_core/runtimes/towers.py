"""What all runtimes give, and the module that they run."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from alignclip_core.encoder import ImageEncoder
from alignclip_core.pixels import normalise

Runtime = Literal["torch", "openvino"]
Precision = Literal["fp32", "bf16"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ImageTower(Protocol):
    """An image tower that only serves."""

    runtime: Runtime
    precision: Precision
    num_bytes: int  # memory that its weights take

    def __call__(self, pixels: UInt8[Tensor, "batch 3 size size"], /) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32 on the CPU, of images that `prepare_image` made, on the CPU."""


class PixelTower(nn.Module):
    """The encoder with the normalisation before it, which a runtime fuses with its first layer."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self._dtype = next(encoder.parameters()).dtype

    def forward(self, pixels: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, in the precision of the weights and on their device."""
        features: Tensor = self.encoder(normalise(pixels, self.encoder.preprocess).to(self._dtype))
        return features
