"""The paper's two misalignments as numbers: how sensible mistakes are, and whether attention is where the label is.

Both compare what the model does with what the texts say: no loss, no gradient, only reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.method.precision import full_precision

TOP_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class ClassMisalignment:
    """Similarities are cosines of class embeddings (eq 7). None: nothing to take a mean of."""

    error_similarity: float | None  # of the wrong prediction to the truth, mean over the errors
    top5_coherence: float | None  # of the five likeliest classes among each other, mean over pairs and images
    top5_similarity_to_truth: float | None  # of the likeliest five to the truth, itself left out
    mean_class_similarity: float  # of any two classes: what a blind guess would have


@full_precision
def class_misalignment(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    cosine: Float[Tensor, "classes classes"],
) -> ClassMisalignment:
    """How sensible the predictions are by the texts' own similarity (figure 4: what stands beside the truth).

    The top five are None for five classes or fewer, where they are always all of them.
    """
    num_classes = len(cosine)
    predicted = logits.argmax(dim=1)
    is_wrong = predicted != labels
    coherence = to_truth = None
    if num_classes > TOP_CLASSES:
        top = logits.topk(TOP_CLASSES, dim=1).indices
        among = cosine[top.unsqueeze(2), top.unsqueeze(1)]  # [images, 5, 5]
        coherence = _mean(among[:, ~torch.eye(TOP_CLASSES, dtype=torch.bool, device=top.device)])
        to_truth = _mean(cosine[labels.unsqueeze(1), top][top != labels.unsqueeze(1)])
    return ClassMisalignment(
        error_similarity=_mean(cosine[labels, predicted][is_wrong]) if is_wrong.any() else None,
        top5_coherence=coherence,
        top5_similarity_to_truth=to_truth,
        mean_class_similarity=_mean(cosine[~torch.eye(num_classes, dtype=torch.bool, device=cosine.device)]),
    )


@full_precision
def attention_divergence(
    attention: Float[Tensor, "batch *layers patches"], log_similarity: Float[Tensor, "batch patches"]
) -> Float[Tensor, " batch *layers"]:
    """KL(A‖G) of each image, and of each layer where there are several: how far attention A is from similarity G.

    `attention` sums to one over the patches and may be 0 in places; `log_similarity` is a log-softmax.
    """
    while log_similarity.dim() < attention.dim():
        log_similarity = log_similarity.unsqueeze(1)
    return (torch.xlogy(attention, attention) - attention * log_similarity).sum(-1)


@full_precision
def object_attention_share(
    attention: Float[Tensor, "batch patches"], masks: Float[Tensor, "batch height width"]
) -> Float[Tensor, " batch"]:
    """Which share of the attention over patches falls on the object.

    `masks` are 1 on the object and 0 elsewhere, over the image as the tower saw it (resized and cropped); a patch that
    the object covers in part counts in part. Patches fill a square, rows first.
    """
    side = round(attention.shape[-1] ** 0.5)
    coverage = F.adaptive_avg_pool2d(masks.unsqueeze(1), side).flatten(1)
    return (attention * coverage).sum(-1)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
