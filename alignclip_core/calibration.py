"""How far a model's probabilities can be believed: a temperature, its error before and after, and when to say none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_IMAGES = 40  # fewer validation images say too little of a temperature
NUM_BINS = 15
TRUE_ACCEPT_RATE = 0.95  # of images of known classes, where no image of another class is there to choose by
LOG_TEMPERATURES = (math.log(0.01), math.log(100))
NUM_HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a manifest says under "calibration"; measured on source validation with the kept weights."""

    temperature: float  # logits are divided by it
    ece_before: float
    ece_after: float
    reject_below: float | None  # where the largest calibrated probability is lower, the answer is "none of these"
    auroc: float | None  # of that probability, known classes against unseen ones; None: no unseen class had images
    num_images: int


def calibrate(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    unknown_logits: Float[Tensor, "unknown classes"] | None = None,
) -> Calibration:
    """Fit the temperature, then the threshold; `unknown_logits`: of images that belong to none of the classes.

    With these the threshold parts both best (the sum of both rates of right answers is largest); without, it accepts
    `TRUE_ACCEPT_RATE` of the known images.
    """
    temperature = fit_temperature(logits, labels)
    confidence = torch.softmax(logits.double() / temperature, dim=1).amax(dim=1)
    unknown = None
    if unknown_logits is not None and len(unknown_logits):
        unknown = torch.softmax(unknown_logits.double() / temperature, dim=1).amax(dim=1)
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(torch.softmax(logits.double(), dim=1), labels),
        ece_after=expected_calibration_error(torch.softmax(logits.double() / temperature, dim=1), labels),
        reject_below=(
            torch.quantile(confidence, 1 - TRUE_ACCEPT_RATE).item()
            if unknown is None
            else _parting_threshold(confidence, unknown)
        ),
        auroc=None if unknown is None else auroc(confidence, unknown),
        num_images=len(labels),
    )


def fit_temperature(logits: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """The temperature of the least negative log-likelihood, between 0.01 and 100.

    The loss is convex in 1/T, so its slope there changes its sign once: halving finds the place.
    """
    logits = logits.double()
    of_label = logits.gather(1, labels[:, None]).mean()
    low, high = LOG_TEMPERATURES
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        expected = (torch.softmax(logits / math.exp(middle), dim=1) * logits).sum(dim=1).mean()
        low, high = (low, middle) if expected < of_label else (middle, high)
    return math.exp((low + high) / 2)


def expected_calibration_error(probabilities: Float[Tensor, "images classes"], labels: Int[Tensor, " images"]) -> float:
    """ECE: mean distance of confidence and accuracy over 15 bins of confidence, each by its share of the images."""
    confidence, predicted = probabilities.max(dim=1)
    bins = (confidence * NUM_BINS).ceil().clamp(1, NUM_BINS)
    gaps = (predicted == labels).double() - confidence.double()
    return sum(abs(gaps[bins == number].sum().item()) for number in range(1, NUM_BINS + 1)) / len(labels)


def auroc(known: Float[Tensor, " known"], unknown: Float[Tensor, " unknown"]) -> float:
    """Chance that a known image has the larger value than an unknown one; a tie counts half."""
    ordered = unknown.sort().values.contiguous()
    below = torch.searchsorted(ordered, known.contiguous())
    up_to = torch.searchsorted(ordered, known.contiguous(), right=True)
    return ((below + up_to).double().mean() / (2 * len(unknown))).item()


def _parting_threshold(known: Tensor, unknown: Tensor) -> float:
    candidates = torch.cat([known, unknown]).unique()
    num_known_below = torch.searchsorted(known.sort().values, candidates)
    num_unknown_below = torch.searchsorted(unknown.sort().values, candidates)
    rates = (1 - num_known_below / len(known)) + num_unknown_below / len(unknown)
    return float(candidates[rates.argmax()].item())
