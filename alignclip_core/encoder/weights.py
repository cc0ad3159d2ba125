"""Tensors of a safetensors file into modules, in fp32, strictly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from alignclip_core.errors import BaseModelUnfit


def read_weights(path: Path, is_wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The wanted tensors, copied out of the file as fp32; the others are not read."""
    try:
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            return {name: file.get_tensor(name).to(torch.float32, copy=True) for name in names if is_wanted(name)}
    except SafetensorError as error:
        raise BaseModelUnfit(f"{path.name} cannot be read as safetensors: {error}.", param="model") from error


def fill(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Give every parameter and persistent buffer its tensor; also for a module on the meta device.

    Raises `BaseModelUnfit` when one is missing, left over or of another shape.
    """
    try:
        module.load_state_dict(dict(weights), assign=True)
    except RuntimeError as error:
        raise BaseModelUnfit(f"{source} does not fit its configuration: {error}", param="model") from error
