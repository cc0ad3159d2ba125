"""How often the model is right: per class and domain, on trained and unseen classes, before and after training."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from alignclip_core.dataset.layout import Sample
from alignclip_core.dataset.splits import EvaluationGroup
from alignclip_core.method.misalignment import class_misalignment
from alignclip_core.method.similarity import class_similarity

Evaluation = dict[str, Any]
"""{"accuracy", "loss", "num_images", "standard_error", "per_class": {folder: accuracy}, "per_domain": {domain: ...}},
the fields of `ClassMisalignment` that are not None and, where it was measured, "attention" (`mean_divergences`)"""
Evaluations = dict[str, dict[str, Evaluation]]
"""{"trained_domains" | "test_domains": {"trained_classes" | "unseen_classes" | "all_classes": Evaluation}}"""

SOURCE_VALIDATION = ("trained_domains", "trained_classes")


def evaluated_indices(groups: Iterable[EvaluationGroup]) -> list[int]:
    """The samples that any group needs, once each, sorted: the rows of the image features."""
    return sorted({index for group in groups for index in group.indices})


@torch.no_grad()
def encode_images(
    encode: Callable[[Tensor], Tensor], batches: Iterable[Tensor], after_batch: Callable[[], None] = lambda: None
) -> Float[Tensor, "images dim"]:
    """Image features of all batches, fp32 on the CPU. `after_batch` may raise to end it."""
    features = []
    for batch in batches:
        features.append(encode(batch).float().cpu())
        after_batch()
    return torch.cat(features)


def evaluate(
    image_features: Float[Tensor, "images dim"],
    samples: Sequence[Sample],
    groups: Sequence[EvaluationGroup],
    class_embeddings: Float[Tensor, "classes dim"],
    class_names: Sequence[str],
    logit_scale: float,
) -> Evaluations:
    """One evaluation for each group, each in its own label space.

    The rows of `image_features` are `evaluated_indices(groups)`; `class_names` are the folder names of the rows of
    `class_embeddings`.
    """
    rows = {index: row for row, index in enumerate(evaluated_indices(groups))}
    columns = {name: column for column, name in enumerate(class_names)}
    evaluations: Evaluations = {}
    for group in groups:
        features = image_features[[rows[index] for index in group.indices]]
        own_embeddings = class_embeddings.float().cpu()[[columns[name] for name in group.label_space]]
        evaluations.setdefault(group.domains, {})[group.classes] = _evaluate_group(
            logit_scale * features @ own_embeddings.T,
            class_similarity(own_embeddings),
            [samples[index] for index in group.indices],
            group.label_space,
        )
    return evaluations


def headline(zero_shot: Evaluations, tuned: Evaluations) -> dict[str, Any]:
    """What was gained on source validation, with the standard error of the difference.

    `harmonic_mean` of trained and unseen classes, each in its own label space, where both have images. {} without
    source validation.
    """
    domains, classes = SOURCE_VALIDATION
    before, after = (evaluations.get(domains, {}).get(classes) for evaluations in (zero_shot, tuned))
    if before is None or after is None:
        return {}
    figures: dict[str, Any] = {
        "zero_shot": before["accuracy"],
        "tuned": after["accuracy"],
        "gain": after["accuracy"] - before["accuracy"],
        # Both look at the same images, so this is rather too large than too small.
        "standard_error": math.hypot(before["standard_error"], after["standard_error"]),
    }
    means = {name: harmonic_mean(each[domains]) for name, each in (("zero_shot", zero_shot), ("tuned", tuned))}
    return figures if None in means.values() else figures | {"harmonic_mean": means}


def harmonic_mean(evaluations: Mapping[str, Evaluation]) -> float | None:
    """H of the accuracy on trained and on unseen classes; None where one of them has no images."""
    if not {"trained_classes", "unseen_classes"} <= evaluations.keys():
        return None
    trained, unseen = (evaluations[classes]["accuracy"] for classes in ("trained_classes", "unseen_classes"))
    return 2 * trained * unseen / (trained + unseen) if trained + unseen else 0.0


def _evaluate_group(
    logits: Float[Tensor, "images classes"],
    cosine: Float[Tensor, "classes classes"],
    samples: Sequence[Sample],
    label_space: Sequence[str],
) -> Evaluation:
    columns = {name: column for column, name in enumerate(label_space)}
    labels = torch.tensor([columns[sample.class_name] for sample in samples])
    hits = (logits.argmax(dim=1) == labels).tolist()
    accuracy = sum(hits) / len(hits)
    misalignment = asdict(class_misalignment(logits, labels, cosine))
    return {
        "accuracy": accuracy,
        "loss": torch.nn.functional.cross_entropy(logits, labels).item(),
        "num_images": len(hits),
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / len(hits)),  # binomial
        "per_class": _mean_by((sample.class_name for sample in samples), hits),
        "per_domain": _mean_by((sample.domain for sample in samples), hits),
        **{name: value for name, value in misalignment.items() if value is not None},
    }


def _mean_by(keys: Iterable[str], hits: Sequence[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for key, hit in zip(keys, hits, strict=True):
        groups[key].append(hit)
    return {key: sum(group) / len(group) for key, group in sorted(groups.items())}
