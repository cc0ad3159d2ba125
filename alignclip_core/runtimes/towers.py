"""What all runtimes give."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

from jaxtyping import Float
from torch import Tensor

Runtime = Literal["torch", "openvino"]
Precision = Literal["fp32", "bf16"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class ImageTower(Protocol):
    """An image tower that only serves."""

    runtime: Runtime
    precision: Precision
    num_bytes: int  # memory that its weights take

    def __call__(self, images: Float[Tensor, "batch 3 size size"], /) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32 on the CPU, of normalised images on the CPU."""
