"""WiSE-FT: weights between the base model's and the tuned ones, without training again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from alignclip_core.base_models import BaseModel
from alignclip_core.checkpoint import read_manifest, save_model
from alignclip_core.errors import InterpolationInvalid
from alignclip_core.finished_model import load_base_model, load_finished_model

NOT_OF_A_MIXTURE = ("result", "weights_sha256", "resume_sha256")  # of a manifest: true of the tuned weights alone


def interpolate_weights(base: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - alpha) base + alpha tuned, exact at both ends. What is no floating-point number is the tuned model's.

    Raises `InterpolationInvalid` for an alpha outside of 0..1 and for weights of different towers.
    """
    check_alpha(alpha)
    if base.keys() != tuned.keys():
        names = sorted(base.keys() ^ tuned.keys())
        raise InterpolationInvalid(f"The weights are not of one tower: {', '.join(names[:5])} on one side alone.")
    return {name: _mix(base[name], value, alpha) for name, value in tuned.items()}


def interpolate_model(
    folder: Path, base_model: BaseModel, alpha: float, target: Path, *, source: str | None = None
) -> dict[str, Any]:
    """Write the mixture of a finished model with its base to `target`; its manifest.

    It says what it is made of: `interpolated_from` (`source`, else the folder's name) and `alpha`. The measured result
    of the tuned weights does not come along. Raises `InterpolationInvalid`, also for a model that is a mixture already.
    """
    check_alpha(alpha)
    check_unmixed(read_manifest(folder))
    tuned = load_finished_model(folder, base_model)
    assert tuned.manifest is not None
    base = load_base_model(base_model).image_encoder.state_dict()
    weights = interpolate_weights(base, tuned.image_encoder.state_dict(), alpha)
    kept = {name: value for name, value in tuned.manifest.items() if name not in NOT_OF_A_MIXTURE}
    save_model(target, weights, kept | {"interpolated_from": source or folder.name, "alpha": float(alpha)})
    return read_manifest(target)


def check_alpha(alpha: float) -> None:
    """Raises `InterpolationInvalid` outside of 0..1."""
    if not 0 <= alpha <= 1:  # NaN is outside too
        raise InterpolationInvalid(
            f"alpha is {alpha}; it must lie between 0 (the base model) and 1 (the tuned model).", param="alpha"
        )


def check_unmixed(manifest: Mapping[str, Any]) -> None:
    """Raises `InterpolationInvalid` for the manifest of a mixture: the model behind it gives every other one."""
    if "interpolated_from" in manifest:
        raise InterpolationInvalid(
            f"This model is itself a mixture (alpha {manifest['alpha']}) of {manifest['interpolated_from']!r}; "
            "interpolate that one.",
            param="model",
        )


def _mix(base: Tensor, tuned: Tensor, alpha: float) -> Tensor:
    if not tuned.is_floating_point():
        return tuned
    return ((1 - alpha) * base.double() + alpha * tuned.double()).to(tuned.dtype)
