"""CLIP's ResNets (RN50 and its kin): their attention pool is the one layer that has attention to align."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignclip_core.config import FinetuneConfig, Pooling
from alignclip_core.encoder.image_tower import AlignedFeatures, ExplainedFeatures, ImageEncoder, needs_of
from alignclip_core.errors import BaseModelUnfit, ConfigInvalid
from alignclip_core.method.attention import CLASS_TOKEN, cls_attention, dv_attention


class _Pooled(NamedTuple):
    """What the attention pool gives, and what it computed on the way, [batch, heads, tokens, head_dim]."""

    features: Tensor  # [batch, tokens, dim], each projected into the space of the text features
    query: Tensor
    key: Tensor
    value: Tensor


class ResNetEncoder(ImageEncoder):
    """An open_clip ModifiedResNet. What is a class token elsewhere is the mean of the patches here.

    It has one attention layer, so L = 1. G is of the pool's output at every patch; G* of the patches' own values,
    c_proj(v_proj(x + position)): no residual, layer norm or other projection stands between.
    """

    @staticmethod
    def _fitting(visual: nn.Module) -> ModifiedResNet:
        if not isinstance(visual, ModifiedResNet) or visual.attnpool is None:
            raise BaseModelUnfit(f"The image tower is a {type(visual).__name__}; this needs a ResNet of CLIP's.")
        return visual

    @property
    def num_blocks(self) -> int:
        """Those with attention, which is the pool alone."""
        return 1

    def pool_by(self, pooling: Pooling | None) -> None:
        """Raises `ConfigInvalid` for `average`, which is not how an attention pool pools."""
        if pooling == "average":
            raise ConfigInvalid(
                "pooling is 'average', but this image tower pools by attention; leave it out.", param="pooling"
            )

    def check(self, config: FinetuneConfig) -> None:
        """Raises `ConfigInvalid` for what an attention pool doesn't have."""
        self.pool_by(config.pooling)
        if config.algorithm == "miro":
            raise ConfigInvalid("miro reads the blocks of a vision transformer; a ResNet has none.", param="algorithm")
        needs = needs_of(config)
        if needs.attention or needs.patches:
            self._num_aligned_layers(config)
            self._check_branch(config)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32; equal to open_clip's `encode_image(images, normalize=True)`."""
        return _unit_length(self._pool(self._embed(images), class_token_only=True).features[:, CLASS_TOKEN])

    def forward_aligned(self, images: Float[Tensor, "batch 3 height width"], config: FinetuneConfig) -> AlignedFeatures:
        """Everything that the config's losses read. Raises `ConfigInvalid` for what an attention pool doesn't have."""
        needs = needs_of(config)
        if not (needs.attention or needs.patches):
            return AlignedFeatures(self.forward(images))
        self._num_aligned_layers(config)
        self._check_branch(config)
        pooled = self._pool(self._embed(images), class_token_only=not needs.last_block_whole)
        return AlignedFeatures(
            image_features=_unit_length(pooled.features[:, CLASS_TOKEN]),
            log_cls_attention=_attention(pooled, config) if needs.attention else None,
            patch_features=_unit_length(_patches(pooled.features)) if needs.patches else None,
            dv_patch_features=self._dv_patch_features_of(pooled, config) if needs.dv else None,
        )

    @torch.no_grad()
    def forward_explained(
        self, images: Float[Tensor, "batch 3 height width"], config: FinetuneConfig
    ) -> ExplainedFeatures:
        """Attention of the pool and both branches' patches, as the config's losses read them."""
        self._check_branch(config)
        pooled = self._pool(self._embed(images))
        return ExplainedFeatures(
            image_features=_unit_length(pooled.features[:, CLASS_TOKEN]),
            cls_attention=_attention(pooled, config).exp().unsqueeze(1),
            patch_features=_unit_length(_patches(pooled.features)),
            dv_patch_features=self._dv_patch_features_of(pooled, config),
        )

    def _check_branch(self, config: FinetuneConfig) -> None:
        self._dv_start(config)
        if config.dv_mlp:
            raise ConfigInvalid("dv_mlp is true, but this image tower's attention pool has no MLP.", param="dv_mlp")

    def _embed(self, images: Tensor) -> Tensor:
        """Mean of the patches and the patches, with their positions: [batch, 1 + patches, width]."""
        visual = self.visual
        maps = visual.stem(images)
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                maps = checkpoint(stage, maps, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = stage(maps)
        patches = maps.flatten(2).transpose(1, 2)
        tokens = torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1)
        positions: Tensor = visual.attnpool.positional_embedding
        return tokens + positions.to(tokens.dtype)

    def _pool(self, tokens: Tensor, *, class_token_only: bool = False) -> _Pooled:
        pool = self.visual.attnpool
        asking = tokens[:, : CLASS_TOKEN + 1] if class_token_only else tokens
        query, key, value = (
            projected.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for projected in (pool.q_proj(asking), pool.k_proj(tokens), pool.v_proj(tokens))
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return _Pooled(pool.c_proj(_merge_heads(attended)), query, key, value)

    @torch.no_grad()
    def _dv_patch_features_of(self, pooled: _Pooled, config: FinetuneConfig) -> Tensor:
        attended = dv_attention(pooled.query, pooled.key, pooled.value, config.dv_structure)
        return _unit_length(self.visual.attnpool.c_proj(_merge_heads(_patches(attended))))


def _attention(pooled: _Pooled, config: FinetuneConfig) -> Tensor:
    """Log A_c."""
    return cls_attention(pooled.query[:, :, CLASS_TOKEN], pooled.key, over_patches=config.attention_over_patches)


def _patches(tokens: Tensor) -> Tensor:
    return tokens[..., CLASS_TOKEN + 1 :, :]


def _merge_heads(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(2)


def _unit_length(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
