"""Full precision for the equations: autocast belongs to the tower's forward pass, not to the losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run outside autocast with its bf16 and fp16 tensors cast up to fp32; fp64 stays fp64."""

    @wraps(function)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return function(
                *(_cast_up(value) for value in args),  # type: ignore[arg-type]
                **{name: _cast_up(value) for name, value in kwargs.items()},  # type: ignore[arg-type]
            )

    return in_full_precision


def _cast_up(value: object) -> object:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if is_half else value  # type: ignore[attr-defined]
