"""What the starter's tower is trained on: contrast with texts, and distance to a linear model's answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

PATCH_WEIGHT = 0.25  # of the contrast on the mean of the projected patches; the class token's weighs 1
RIDGE_WEIGHT = 2.0
RIDGE_STRENGTH = 1e-2  # per picture; the one of the shipped weights was not written down


def positives(keys: Sequence[str]) -> Float[Tensor, "batch batch"]:
    """Rows that share a key are each other's positives; every row sums to one."""
    groups = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    group = torch.tensor([groups[key] for key in keys])
    same = (group[:, None] == group[None, :]).float()
    return same / same.sum(1, keepdim=True)


def contrast(
    image_features: Float[Tensor, "batch dim"],
    text_features: Float[Tensor, "batch dim"],
    logit_scale: Float[Tensor, ""],
    targets: Float[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE with several positives; all features have unit length."""
    logits = logit_scale * image_features @ text_features.T
    to_texts = -(targets * logits.log_softmax(dim=1)).sum(1).mean()
    to_images = -(targets * logits.T.log_softmax(dim=1)).sum(1).mean()
    return (to_texts + to_images) / 2


def ridge_answers(pooled: Float[Tensor, "pictures channels"], wanted: Float[Tensor, "pictures dim"]) -> Tensor:
    """For every picture, the unit-length answer of a ridge regression from pooled stem features to text features."""
    centred, mean = pooled - pooled.mean(0), wanted.mean(0)
    gram = centred.T @ centred + RIDGE_STRENGTH * len(pooled) * torch.eye(pooled.shape[1])
    weights = torch.linalg.solve(gram, centred.T @ (wanted - mean))
    return F.normalize(centred @ weights + mean, dim=-1)


def starter_loss(
    class_token: Float[Tensor, "batch dim"],
    mean_patch: Float[Tensor, "batch dim"],
    text_features: Float[Tensor, "batch dim"],
    answers: Float[Tensor, "batch dim"],
    logit_scale: Float[Tensor, ""],
    targets: Float[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Contrast of the class token + 0.25 x contrast of the mean patch + 2 x (1 - cosine to the ridge's answer)."""
    distance = 1 - (class_token * answers).sum(-1).mean()
    return (
        contrast(class_token, text_features, logit_scale, targets)
        + PATCH_WEIGHT * contrast(mean_patch, text_features, logit_scale, targets)
        + RIDGE_WEIGHT * distance
    )
