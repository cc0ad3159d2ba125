"""WiSE-FT's arithmetic: weights between two models."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alignclip_core.errors import InterpolationInvalid


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) base + alpha tuned, exact at both ends. What is no floating-point number is the tuned model's.

    Raises `InterpolationInvalid` for an alpha outside of 0..1 and for weights of different towers.
    """
    check_alpha(alpha)
    if base.keys() != tuned.keys():
        names = sorted(base.keys() ^ tuned.keys())
        raise InterpolationInvalid(f"The weights are not of one tower: {', '.join(names[:5])} on one side alone.")
    return {name: _mix(base[name], value, alpha) for name, value in tuned.items()}


def check_alpha(alpha: float) -> None:
    """Raises `InterpolationInvalid` outside of 0..1."""
    if not 0 <= alpha <= 1:  # NaN is outside too
        raise InterpolationInvalid(
            f"alpha is {alpha}; it must lie between 0 (the base model) and 1 (the tuned model).", param="alpha"
        )


def _mix(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if not tuned.is_floating_point():
        return tuned
    return ((1 - alpha) * base.double() + alpha * tuned.double()).to(tuned.dtype)
