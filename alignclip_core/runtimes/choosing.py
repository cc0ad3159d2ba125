"""Which runtime serves a tower: what the operator asks for, else the fastest here; checked before it serves.

On the CPU that was tried OpenVINO in bf16 was faster than torch at every batch size (docs/serving.md).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import torch

from alignclip_core.encoder import ImageEncoder
from alignclip_core.runtimes.openvino_tower import OpenVinoTower, computes_bf16
from alignclip_core.runtimes.parity import MIN_COSINE, self_check
from alignclip_core.runtimes.torch_tower import TorchTower
from alignclip_core.runtimes.towers import ImageTower, Precision, Runtime

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RuntimeChoice:
    """What the operator asks for."""

    runtime: Runtime | Literal["auto"] = "auto"
    precision: Precision | Literal["auto"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"


def make_tower(encoder: ImageEncoder, choice: RuntimeChoice, *, name: str) -> ImageTower:
    """The first of the candidates that runs the model `name` with the features of torch in fp32, which is the last."""
    for runtime, precision, device in candidates(choice):
        try:
            tower = _build(encoder, runtime, precision, device)
            cosine = self_check(tower, encoder)
        except Exception:  # whatever a converter or a driver raises, the next can serve
            log.warning("%s in %s cannot run %r; the next runtime is tried.", runtime, precision, name, exc_info=True)
            continue
        if cosine >= MIN_COSINE:
            log.info("%s in %s on %s serves %r (cosine to fp32 %.6f).", runtime, precision, device, name, cosine)
            return tower
        log.warning(
            "%s in %s gives other features of %r (cosine %.6f, wanted %.6f); the next runtime is tried.",
            runtime, precision, name, cosine, MIN_COSINE,
        )  # fmt: skip
    return TorchTower(encoder)


def candidates(choice: RuntimeChoice) -> list[tuple[Runtime, Precision, str]]:
    """Runtimes, precisions and devices to try before torch in fp32, each `auto` decided for this machine."""
    device = choice.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    runtime: Runtime = ("torch" if device == "cuda" else "openvino") if choice.runtime == "auto" else choice.runtime
    precisions: list[Precision] = ["fp32"] if choice.precision == "auto" else [choice.precision]
    if choice.precision == "auto" and (device == "cuda" or (runtime == "openvino" and computes_bf16())):
        precisions.insert(0, "bf16")
    return [(runtime, precision, device) for precision in precisions]


def _build(encoder: ImageEncoder, runtime: Runtime, precision: Precision, device: str) -> ImageTower:
    if runtime == "openvino":
        return OpenVinoTower(encoder, precision)
    return TorchTower(encoder, precision, device)
