"""WiSE-FT: weights between the base model's and the tuned ones, without training again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alignclip_core.base_models import BaseModel
from alignclip_core.checkpoint import LEARNED, read_manifest, save_model
from alignclip_core.errors import InterpolationInvalid
from alignclip_core.finished_model import load_base_model, load_finished_model
from alignclip_core.method.mixing import check_alpha, interpolate_weights

NOT_OF_A_MIXTURE = (
    "result",
    "calibration",
    "weights_sha256",
    "resume_sha256",
)  # of a manifest: true of the tuned weights alone


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
    if tuned.learned_classes is not None:
        learned = tuned.learned_classes.state_dict()
        weights |= {f"{LEARNED}{name}": value for name, value in learned.items()}
    kept = {name: value for name, value in tuned.manifest.items() if name not in NOT_OF_A_MIXTURE}
    save_model(target, weights, kept | {"interpolated_from": source or folder.name, "alpha": float(alpha)})
    return read_manifest(target)


def check_unmixed(manifest: Mapping[str, Any]) -> None:
    """Raises `InterpolationInvalid` for the manifest of a mixture: the model behind it gives every other one."""
    if "interpolated_from" in manifest:
        raise InterpolationInvalid(
            f"This model is itself a mixture (alpha {manifest['alpha']}) of {manifest['interpolated_from']!r}; "
            "interpolate that one.",
            param="model",
        )
