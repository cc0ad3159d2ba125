"""How often the model is right: per class and domain, on trained and unseen classes, before and after training."""

from __future__ import annotations

import hashlib
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
from alignclip_core.method.misalignment import TOP_CLASSES, class_misalignment
from alignclip_core.method.similarity import class_similarity

Evaluation = dict[str, Any]
"""{"accuracy", "loss", "num_images", "standard_error", "per_class": {folder: accuracy}, "per_domain": {domain: ...}},
the fields of `ClassMisalignment` that are not None, "confusion" and "mistakes" (`DETAILS`) and, where it was measured,
"attention" (`mean_divergences`). Of test domains also "parts": DomainBed's two shares, {name: {"accuracy",
"num_images"}}"""
Evaluations = dict[str, dict[str, Evaluation]]
"""{"trained_domains" | "test_domains" | "test_images": {"trained_classes" | "unseen_classes" | "all_classes":
Evaluation}}, and "test_datasets": {name: Evaluation}"""

LogitsOf = Callable[[Tensor, Sequence[str]], Tensor]
"""(image features of one domain, folder names of classes) -> logits"""

SOURCE_VALIDATION = ("trained_domains", "trained_classes")
DETAILS = ("confusion", "mistakes")
"""What an evaluation says of single images and pairs of classes: for a result, too long for a metric."""
MAX_MISTAKES = 12


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
    logits_of: LogitsOf | None = None,
) -> Evaluations:
    """One evaluation for each group, each in its own label space.

    The rows of `image_features` are `evaluated_indices(groups)`; `class_names` are the folder names of the rows of
    `class_embeddings`. `logits_of`: how a model classifies by something else than these.
    """
    rows = {index: row for row, index in enumerate(evaluated_indices(groups))}
    columns = {name: column for column, name in enumerate(class_names)}
    evaluations: Evaluations = {}
    for group in groups:
        features = image_features[[rows[index] for index in group.indices]]
        own_embeddings = class_embeddings.float().cpu()[[columns[name] for name in group.label_space]]
        own_samples = [samples[index] for index in group.indices]
        evaluations.setdefault(group.domains, {})[group.classes] = _evaluate_group(
            logit_scale * features @ own_embeddings.T
            if logits_of is None
            else logits_by_domain(features, own_samples, group.label_space, logits_of),
            class_similarity(own_embeddings),
            own_samples,
            group.label_space,
            {name: [place for place, i in enumerate(group.indices) if i in part] for name, part in group.parts.items()},
        )
    return evaluations


def without_details(evaluation: Evaluation) -> Evaluation:
    """The numbers alone."""
    return {name: value for name, value in evaluation.items() if name not in DETAILS}


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


def logits_by_domain(
    features: Tensor, samples: Sequence[Sample], label_space: Sequence[str], logits_of: LogitsOf
) -> Tensor:
    """Logits of the samples in their order, though a model may look at all images of a domain together."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        places[sample.domain].append(place)
    logits = torch.cat([logits_of(features[of_domain], label_space).float().cpu() for of_domain in places.values()])
    order = torch.tensor([place for of_domain in places.values() for place in of_domain])
    return logits[order.argsort()]


def _evaluate_group(
    logits: Float[Tensor, "images classes"],
    cosine: Float[Tensor, "classes classes"],
    samples: Sequence[Sample],
    label_space: Sequence[str],
    parts: Mapping[str, Sequence[int]],
) -> Evaluation:
    columns = {name: column for column, name in enumerate(label_space)}
    labels = torch.tensor([columns[sample.class_name] for sample in samples])
    predicted = logits.argmax(dim=1)
    hits = (predicted == labels).tolist()
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
        **({"parts": _parts(hits, parts)} if parts else {}),
        "confusion": _confusion(labels, predicted, label_space),
        "mistakes": _mistakes(logits, samples, hits, label_space),
    }


def _parts(hits: Sequence[bool], parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        name: {"accuracy": sum(hits[row] for row in rows) / len(rows), "num_images": len(rows)}
        for name, rows in parts.items()
        if rows
    }


def _confusion(labels: Tensor, predicted: Tensor, label_space: Sequence[str]) -> dict[str, Any]:
    """How many images of a class were taken for which: [row of the truth, row of the prediction, images]."""
    pairs, counts = torch.stack([labels, predicted], dim=1).unique(dim=0, return_counts=True)
    return {
        "labels": list(label_space),
        "counts": [[*pair, count] for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)],
    }


def _mistakes(
    logits: Tensor, samples: Sequence[Sample], hits: Sequence[bool], label_space: Sequence[str]
) -> list[dict[str, Any]]:
    """Some wrong images with their likeliest classes (figure 4), chosen alike for every model of the same images."""
    wrong = [row for row, is_hit in enumerate(hits) if not is_hit]
    chosen = sorted(wrong, key=lambda row: hashlib.sha256(samples[row].path.encode()).digest())[:MAX_MISTAKES]
    top = torch.softmax(logits[chosen], dim=1).topk(min(TOP_CLASSES, len(label_space)), dim=1)
    return [
        {
            "source": samples[row].source,
            "path": samples[row].path,
            "label": samples[row].class_name,
            "top": [[label_space[column], share] for column, share in zip(columns, shares, strict=True)],
        }
        for row, columns, shares in zip(chosen, top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _mean_by(keys: Iterable[str], hits: Sequence[bool]) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for key, hit in zip(keys, hits, strict=True):
        groups[key].append(hit)
    return {key: sum(group) / len(group) for key, group in sorted(groups.items())}
