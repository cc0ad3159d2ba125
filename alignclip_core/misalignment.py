"""Attention misalignment of a tower: how far its attention is from the patches that resemble the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import ImageEncoder
from alignclip_core.method.attention import patch_similarity
from alignclip_core.method.misalignment import attention_divergence, object_attention_share

MAX_IMAGES = 64  # enough for a mean; costs as much as two batches of the evaluation


class Divergences(NamedTuple):
    """KL divergences of each image of a batch, as printed in eq 6, whatever direction the config trains by."""

    attention: Float[Tensor, " batch"]  # KL(A_c‖G*), A_c over the config's first L layers
    attention_per_layer: Float[Tensor, "batch layers"]  # KL(A‖G*) of every layer's own A
    similarity: Float[Tensor, " batch"]  # KL(G‖G*); G is of the last layer alone
    on_object: Float[Tensor, " batch"]  # share of A_c on the object; NaN for an image without a mask


class AttentionMisalignment(nn.Module):
    """A tower with the question where it looks, in one module so that other parameters can be put into it."""

    def __init__(self, encoder: ImageEncoder, config: FinetuneConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.temperature = config.token_temperature or 1 / (config.logit_scale or encoder.logit_scale)

    @torch.no_grad()
    def forward(
        self,
        images: Float[Tensor, "batch 3 size size"],
        own_texts: Float[Tensor, "batch dim"],
        masks: Float[Tensor, "batch size size"] | None = None,
    ) -> Divergences:
        """`own_texts` are the class embeddings of the images' labels. G* is the D-V branch's.

        `masks` are 1 on the object, 0 beside it, NaN where an image has none.
        """
        seen = self.encoder.forward_explained(images, self.config)
        log_target = patch_similarity(seen.dv_patch_features, own_texts, self.temperature)
        similarity = patch_similarity(seen.patch_features, own_texts, self.temperature).exp()
        aligned = seen.cls_attention[:, : self.config.num_aligned_layers].mean(dim=1)
        return Divergences(
            attention_divergence(aligned, log_target),
            attention_divergence(seen.cls_attention, log_target),
            attention_divergence(similarity, log_target),
            log_target.new_full((len(images),), torch.nan) if masks is None else object_attention_share(aligned, masks),
        )


def mean_divergences(batches: Sequence[Divergences]) -> dict[str, Any]:
    """The means over all images, as JSON."""
    attention, per_layer, similarity, on_object = (
        torch.cat(parts).double().cpu() for parts in zip(*batches, strict=True)
    )
    num_masks = int((~on_object.isnan()).sum())
    masked = {"num_masks": num_masks, "object_attention_share": on_object.nanmean().item()} if num_masks else {}
    return {
        "num_images": len(attention),
        "attention_divergence": attention.mean().item(),
        "attention_divergence_per_layer": per_layer.mean(dim=0).tolist(),
        "similarity_divergence": similarity.mean().item(),
        **masked,
    }
