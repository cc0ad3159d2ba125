"""Equations 3 to 5: the class token's attention over patches, the patches' similarity to a text, the D-V branch.

Distributions over patches are returned as log-probabilities: the losses need logarithms, and log(softmax) of a bf16
or a peaked softmax is where they would get lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.config import DvStructure
from alignclip_core.method.precision import full_precision

CLASS_TOKEN = 0  # CLIP's towers put it before the patches


@full_precision
def cls_attention(
    cls_query: Float[Tensor, "batch heads head_dim"],
    keys: Float[Tensor, "batch heads tokens head_dim"],
    *,
    over_patches: bool = True,
) -> Float[Tensor, "batch patches"]:
    """Eq 3 within one layer: log of the class token's attention over the patches, averaged over the heads.

    `over_patches`: the softmax runs over the patches alone, as printed, so that each head has the same say. Else over
    all tokens, and the heads' average is renormalised over the patches, as the authors' code does: that weights a head
    by what it does not give to the class token.
    """
    scores = torch.einsum("bhd,bhnd->bhn", cls_query, keys) / math.sqrt(keys.shape[-1])
    if over_patches:
        return _log_mean(torch.log_softmax(_patches(scores), dim=-1), dim=1)
    return torch.log_softmax(_log_mean(_patches(torch.log_softmax(scores, dim=-1)), dim=1), dim=-1)


def mean_over_layers(log_attention: Sequence[Float[Tensor, "batch patches"]]) -> Float[Tensor, "batch patches"]:
    """Eq 3: log A_c, the average of the aligned layers' attention. Its exponential sums to one over the patches."""
    return _log_mean(torch.stack(list(log_attention)), dim=0)


@full_precision
def patch_similarity(
    patch_features: Float[Tensor, "batch patches dim"],
    text_features: Float[Tensor, "batch dim"],
    temperature: float,
) -> Float[Tensor, "batch patches"]:
    """Eq 4: log G, the log-softmax over patches of each patch's cosine with the image's own text, divided by τ.

    Both features have unit length. With the D-V branch's patches it is log G* of eq 6.
    """
    cosine = torch.einsum("bpd,bd->bp", patch_features, text_features)
    return torch.log_softmax(cosine / temperature, dim=-1)


@full_precision
def patch_similarity_of_all_classes(
    patch_features: Float[Tensor, "batch patches dim"],
    class_embeddings: Float[Tensor, "classes dim"],
    temperature: float,
) -> Float[Tensor, "batch classes patches"]:
    """Eq 4 for every class instead of the image's own: what the authors' code puts into AS."""
    cosine = torch.einsum("bpd,cd->bcp", patch_features, class_embeddings)
    return torch.log_softmax(cosine / temperature, dim=-1)


def dv_attention(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads tokens head_dim"],
    value: Float[Tensor, "batch heads tokens head_dim"],
    structure: DvStructure,
) -> Float[Tensor, "batch heads tokens head_dim"]:
    """Eq 5: what the tokens attend to when softmax(Q Kᵀ / √d) is replaced by a diagonal matrix.

    The only diagonal whose rows sum to one is the identity, so D-V is V itself: every token keeps to its own. The
    other structures (figures 7 and 8, table 10) name what stands in the places of Q, K and V.
    """
    if structure == "dv":
        return value
    projections = {"q": query, "k": key, "v": value}
    in_place_of_query, in_place_of_key, in_place_of_value = (projections[letter] for letter in structure)
    return F.scaled_dot_product_attention(in_place_of_query, in_place_of_key, in_place_of_value)


def _patches(scores: Tensor) -> Tensor:
    return scores[..., CLASS_TOKEN + 1 :]


def _log_mean(log_values: Tensor, dim: int) -> Tensor:
    """Logarithm of the mean of exp(log_values)."""
    return torch.logsumexp(log_values, dim=dim) - math.log(log_values.shape[dim])
