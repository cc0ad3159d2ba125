"""Equations 7 and 8: how alike the classes are, and the soft targets made from it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.method.precision import full_precision

OWN_SHARE = 0.6  # of S' that a class keeps: enough to name it, little enough that the others show
MAX_SCALE = 1e4
BISECTIONS = 60  # to the last bit of a double


@full_precision
def class_similarity(class_embeddings: Float[Tensor, "classes dim"]) -> Float[Tensor, "classes classes"]:
    """Eq 7: S, the cosine of every two class embeddings. Exactly symmetric, exactly one on the diagonal."""
    unit_length = F.normalize(class_embeddings, dim=-1)
    cosine = unit_length @ unit_length.T
    return ((cosine + cosine.T) / 2).clamp(-1, 1).fill_diagonal_(1)


@full_precision
def normalised_similarity(
    cosine: Float[Tensor, "classes classes"],
    similarity_scale: float = 1.0,
    keep_diagonal: bool = True,
) -> Float[Tensor, "classes classes"]:
    """Appendix B.5: S', the softmax over each row of S. Rows sum to one.

    B.5 prints no scale (1), which makes S' nearly uniform; the authors' code multiplies S by 35. Without
    `keep_diagonal` the class's own share is set to zero after the softmax and nothing is renormalised, as the authors'
    code does, so rows sum to less than one.
    """
    similarity = torch.softmax(similarity_scale * cosine, dim=-1)
    return similarity if keep_diagonal else similarity.fill_diagonal_(0)


@full_precision
def calibrated_scale(cosine: Float[Tensor, "classes classes"], own_share: float = OWN_SHARE) -> float:
    """The similarity scale at which the classes' own shares of S' are `own_share` on average.

    0 where they are more than that at any scale, and the largest scale where they are always less.
    """
    lowest, highest = 0.0, MAX_SCALE
    for _ in range(BISECTIONS):  # the mean share rises with the scale: nothing is more like a class than itself
        middle = (lowest + highest) / 2
        is_below = normalised_similarity(cosine.double(), middle).diagonal().mean() < own_share
        lowest, highest = (middle, highest) if is_below else (lowest, middle)
    return highest


@full_precision
def smoothed_targets(
    labels: Int[Tensor, " batch"],
    similarity: Float[Tensor, "classes classes"],
    smoothing: float,
    keep_diagonal: bool = True,
) -> Float[Tensor, "batch classes"]:
    """Eq 8 as a target: (1 - ε) onehot(y) + ε S'[y]. Rows sum to one.

    Without `keep_diagonal`, the authors' code: (1 - ε) onehot(y) + (1 - onehot(y)) S'[y], whose rows need not sum to
    one. In both forms ε = 0 means onehot(y), that is plain cross entropy.
    """
    onehot = F.one_hot(labels, similarity.shape[0]).to(similarity.dtype)
    if smoothing == 0:
        return onehot
    if keep_diagonal:
        return (1 - smoothing) * onehot + smoothing * similarity[labels]
    return (1 - smoothing) * onehot + (1 - onehot) * similarity[labels]


def uniform_similarity(num_classes: int) -> Float[Tensor, "{num_classes} {num_classes}"]:
    """S' of ordinary label smoothing: every class equally like every other."""
    return torch.full((num_classes, num_classes), 1 / num_classes)
