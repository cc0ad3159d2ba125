"""Equations 1, 2, 6, 8 and 9 and their sum: one function each. All are means over the batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignclip_core.config import FinetuneConfig, KlDirection
from alignclip_core.method.attention import patch_similarity, patch_similarity_of_all_classes
from alignclip_core.method.precision import full_precision


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The total, which carries the gradient, and its three terms before their weights."""

    total: Float[Tensor, ""]
    smoothing: Float[Tensor, ""]  # SLS; plain cross entropy where smoothing is 0
    layer_alignment: Float[Tensor, ""]  # AL; 0 where it is switched off
    similarity_alignment: Float[Tensor, ""]  # AS; 0 where it is switched off


@full_precision
def class_logits(
    image_features: Float[Tensor, "batch dim"],
    class_embeddings: Float[Tensor, "*batch classes dim"],
    logit_scale: float,
) -> Float[Tensor, "batch classes"]:
    """Eq 1 without a label: scaled products with the classes, which each image may see in its own way."""
    return logit_scale * (class_embeddings @ image_features.unsqueeze(-1)).squeeze(-1)


@full_precision
def margin_logits(
    image_features: Float[Tensor, "batch dim"],
    class_embeddings: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    logit_scale: float,
    margin: float = 0.0,
) -> Float[Tensor, "batch classes"]:
    """Eq 1: cosine of image and class over τ; `logit_scale` is 1/τ and both features have unit length.

    With a margin, CLIPood's metric softmax: (f - margin · t_y) Tᵀ / τ. The true class y loses the whole margin, every
    other class as much of it as it is like y.
    """
    if margin:
        image_features = image_features - margin * class_embeddings[labels]
    return logit_scale * image_features @ class_embeddings.T


@full_precision
def layer_alignment_loss(
    log_attention: Float[Tensor, "batch patches"],
    log_target: Float[Tensor, "batch patches"],
    kl_direction: KlDirection = "paper",
) -> Float[Tensor, ""]:
    """AL, the first sum of eq 6 (alone, with G as target, eq 2): KL(A_c‖G*), or KL(G*‖A_c) with `target_first`."""
    return _divergence(log_attention, log_target, kl_direction).mean()


@full_precision
def similarity_alignment_loss(
    log_similarity: Float[Tensor, "batch *classes patches"],
    log_target: Float[Tensor, "batch *classes patches"],
    kl_direction: KlDirection = "paper",
) -> Float[Tensor, ""]:
    """AS, the second sum of eq 6: KL(G‖G*), or KL(G*‖G) with `target_first`; summed over classes where several."""
    return _divergence(log_similarity, log_target, kl_direction).sum() / len(log_similarity)


@full_precision
def semantic_smoothing_loss(
    logits: Float[Tensor, "batch classes"], targets: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Eq 8 with eq 9: cross entropy with soft targets, (1 - ε) CE + ε L_S. Eq 9 is printed without its minus sign."""
    return -(targets * torch.log_softmax(logits, dim=-1)).sum(-1).mean()


@full_precision
def frozen_distance(
    image_features: Float[Tensor, "batch dim"], frozen_features: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    """1 - cosine of an image's features, of unit length, and those that the tower gave it before training."""
    return (1 - (image_features * frozen_features).sum(-1)).mean()


def attention_alignment_loss(
    *,
    log_cls_attention: Float[Tensor, "batch patches"] | None,
    patch_features: Float[Tensor, "batch patches dim"] | None,
    dv_patch_features: Float[Tensor, "batch patches dim"] | None,
    class_embeddings: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
    logit_scale: float,
    config: FinetuneConfig,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """AL and AS of eq 6, or of eq 2 with `attention_target: main`; 0 for a term that the config switches off.

    None is allowed for what the switched-on terms do not read. Eq 2's target is G itself, with its gradient as
    printed; AS would compare G with G and is 0.
    """
    temperature = config.token_temperature or 1 / logit_scale
    own_text = class_embeddings[labels]
    target_features = dv_patch_features if config.attention_target == "dv" else patch_features
    layer_alignment = similarity_alignment = class_embeddings.new_zeros((), dtype=torch.float32)

    if config.layer_alignment_weight:
        assert log_cls_attention is not None
        assert target_features is not None
        log_target = patch_similarity(target_features, own_text, temperature)
        layer_alignment = layer_alignment_loss(log_cls_attention, log_target, config.kl_direction)

    if config.similarity_alignment_weight and config.attention_target == "dv":
        assert patch_features is not None
        assert dv_patch_features is not None
        of_texts, texts = (
            (patch_similarity_of_all_classes, class_embeddings)
            if config.similarity_over_all_classes
            else (patch_similarity, own_text)
        )
        similarity_alignment = similarity_alignment_loss(
            of_texts(patch_features, texts, temperature),
            of_texts(dv_patch_features, texts, temperature),
            config.kl_direction,
        )
    return layer_alignment, similarity_alignment


def total_loss(
    *,
    image_features: Float[Tensor, "batch dim"],
    log_cls_attention: Float[Tensor, "batch patches"] | None,
    patch_features: Float[Tensor, "batch patches dim"] | None,
    dv_patch_features: Float[Tensor, "batch patches dim"] | None,
    class_embeddings: Float[Tensor, "classes dim"],
    targets: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    logit_scale: float,
    config: FinetuneConfig,
) -> Losses:
    """L = w_AL AL + w_AS AS + λ SLS. The weights at 0 give the baselines: what is switched off costs nothing.

    `class_embeddings` and `labels` are those of the trained classes, `targets` come from `smoothed_targets`.
    """
    logits = margin_logits(image_features, class_embeddings, labels, logit_scale, config.margin)
    smoothing = semantic_smoothing_loss(logits, targets)
    layer_alignment, similarity_alignment = attention_alignment_loss(
        log_cls_attention=log_cls_attention,
        patch_features=patch_features,
        dv_patch_features=dv_patch_features,
        class_embeddings=class_embeddings,
        labels=labels,
        logit_scale=logit_scale,
        config=config,
    )
    total = (
        config.layer_alignment_weight * layer_alignment
        + config.similarity_alignment_weight * similarity_alignment
        + config.smoothing_loss_weight * smoothing
    )
    return Losses(
        total=total,
        smoothing=smoothing,
        layer_alignment=layer_alignment,
        similarity_alignment=similarity_alignment,
    )


def _divergence(log_p: Tensor, log_target: Tensor, kl_direction: KlDirection) -> Tensor:
    """KL divergence over the last dimension."""
    if kl_direction == "target_first":
        log_p, log_target = log_target, log_p
    return (log_p.exp() * (log_p - log_target)).sum(-1)
