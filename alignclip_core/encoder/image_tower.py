"""The image tower, run block by block, so that one pass gives image features, attention over patches and D-V branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignclip_core.config import FinetuneConfig, Pooling
from alignclip_core.encoder.blocks import BlockOutput, run_block, run_dv_block
from alignclip_core.errors import BaseModelUnfit, ConfigInvalid
from alignclip_core.images import Preprocessing
from alignclip_core.method.attention import CLASS_TOKEN, cls_attention, mean_over_layers

NUM_DV_BLOCKS = 6  # CLIP Surgery's dual path covers the last six blocks; the paper names no start


class AlignedFeatures(NamedTuple):
    """One pass through the tower. None: the config's losses do not read it, and it was not computed. All fp32."""

    image_features: Float[Tensor, "batch dim"]  # unit length
    log_cls_attention: Float[Tensor, "batch patches"] | None = None  # log A_c of eq 3
    patch_features: Float[Tensor, "batch patches dim"] | None = None  # unit length, for G of eq 4
    dv_patch_features: Float[Tensor, "batch patches dim"] | None = None  # unit length, no gradient, for G* of eq 6


class ExplainedFeatures(NamedTuple):
    """What a tower looks at: for pictures of it, so without gradient. All fp32."""

    image_features: Float[Tensor, "batch dim"]  # unit length
    cls_attention: Float[Tensor, "batch blocks patches"]  # of every block, the mean over its heads; each sums to one
    patch_features: Float[Tensor, "batch patches dim"]  # unit length, of the main branch
    dv_patch_features: Float[Tensor, "batch patches dim"]  # unit length, of the D-V branch


class Needs(NamedTuple):
    """What the config's losses read of a pass, beside the image features."""

    attention: bool
    patches: bool  # of the main stream
    dv: bool
    last_block_whole: bool  # not its class token's row alone


def needs_of(config: FinetuneConfig) -> Needs:
    """Which parts of a pass the config has a use for."""
    aligns_attention = bool(config.layer_alignment_weight)
    has_dv_target = config.attention_target == "dv"
    # With the main branch as target, AS compares G with itself.
    aligns_similarity = bool(config.similarity_alignment_weight) and has_dv_target
    dv = has_dv_target and (aligns_attention or aligns_similarity)
    patches = aligns_similarity or (aligns_attention and not has_dv_target)
    return Needs(aligns_attention, patches, dv, last_block_whole=patches or (dv and "q" in config.dv_structure))


class ImageEncoder(nn.Module):
    """An open_clip image tower. Its state dict has open_clip's own names (`visual.…`).

    Always in evaluation mode, in training too, as the method trains: batch statistics stay, nothing is dropped out.
    """

    def __init__(self, visual: nn.Module, *, logit_scale: float, preprocess: Preprocessing) -> None:
        """Raises `BaseModelUnfit` for a tower that is no plain vision transformer."""
        super().__init__()
        self.visual: Any = self._fitting(visual)
        self._own_pooling: Any = getattr(visual, "pool_type", None)
        self.logit_scale = logit_scale  # 1/τ of the checkpoint
        self.preprocess = preprocess
        self.gradient_checkpointing = False  # True: the backward pass computes each block's insides again
        self._fixed = {name for name, value in self.named_parameters() if not value.requires_grad}
        self.eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        return super().train(False)

    @property
    def num_blocks(self) -> int:
        return len(self.visual.transformer.resblocks)

    @staticmethod
    def _fitting(visual: nn.Module) -> VisionTransformer:
        """The tower, if this class can run it."""
        return _fitting(visual)

    def pool_by(self, pooling: Pooling | None) -> None:
        """Image features from the class token or from the mean of the projected patches; None: the checkpoint's own."""
        self.visual.pool_type = {"class_token": "tok", "average": "avg", None: self._own_pooling}[pooling]

    def check(self, config: FinetuneConfig) -> None:
        """Raises `ConfigInvalid` for blocks and branches that the config's losses read and the tower does not have."""
        needs = needs_of(config)
        if needs.attention:
            self._num_aligned_layers(config)
        if needs.dv:
            self._dv_start(config)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Image features of unit length, fp32; equal to open_clip's `encode_image(images, normalize=True)`."""
        tokens = self._embed(images)
        *blocks, last = self.visual.transformer.resblocks
        for block in blocks:
            tokens = self._run_block(block, tokens)[0].tokens
        tokens = self._run_block(last, tokens, class_token_only=self._pools_class_token)[0].tokens
        return self._image_features(self._project(tokens))

    def at_own_size(self, features: Float[Tensor, "images dim"]) -> Float[Tensor, "images dim"]:
        """Features with entries of about 1, as those are that a network ends with; at unit length they are 1/√dim."""
        return features * math.sqrt(features.shape[1])

    def forward_aligned(self, images: Float[Tensor, "batch 3 height width"], config: FinetuneConfig) -> AlignedFeatures:
        """Everything that the config's losses read. Raises `ConfigInvalid` for blocks that the tower doesn't have."""
        needs = needs_of(config)
        if not (needs.attention or needs.patches):
            return AlignedFeatures(self.forward(images))
        num_aligned_layers = self._num_aligned_layers(config) if needs.attention else 0
        dv_start = self._dv_start(config) if needs.dv else self.num_blocks

        tokens = self._embed(images)
        dv_tokens = tokens
        log_attention = []
        for index, block in enumerate(self.visual.transformer.resblocks):
            if index == dv_start:
                dv_tokens = tokens.detach()
            is_last = index == self.num_blocks - 1
            output, attention = self._run_block(
                block,
                tokens,
                class_token_only=is_last and self._pools_class_token and not needs.last_block_whole,
                attention_over_patches=config.attention_over_patches if index < num_aligned_layers else None,
            )
            tokens = output.tokens
            if attention is not None:
                log_attention.append(attention)
            if index >= dv_start:
                # After the main stream, so that autocast makes its bf16 copies of the weights with gradient.
                dv_tokens = run_dv_block(block, dv_tokens, output, config)

        projected = self._project(tokens)
        return AlignedFeatures(
            image_features=self._image_features(projected),
            log_cls_attention=mean_over_layers(log_attention) if log_attention else None,
            patch_features=_unit_length(_patches(projected)) if needs.patches else None,
            dv_patch_features=self._dv_patch_features(dv_tokens) if needs.dv else None,
        )

    @property
    def token_width(self) -> int:
        """Numbers of a token between the blocks."""
        return int(self.visual.positional_embedding.shape[1])

    def forward_blocks(
        self, images: Float[Tensor, "batch 3 height width"], blocks: Sequence[int]
    ) -> tuple[Float[Tensor, "batch dim"], list[Float[Tensor, "batch tokens channels"]]]:
        """Image features, and the tokens before the first block and after each of these."""
        tokens = self._embed(images)
        kept = [tokens]
        for index, block in enumerate(self.visual.transformer.resblocks):
            tokens = self._run_block(block, tokens)[0].tokens
            if index in blocks:
                kept.append(tokens)
        return self._image_features(self._project(tokens)), kept

    @torch.no_grad()
    def forward_explained(
        self, images: Float[Tensor, "batch 3 height width"], config: FinetuneConfig
    ) -> ExplainedFeatures:
        """Attention of every block and both branches' patches, as the config's losses read them."""
        dv_start = self._dv_start(config)
        tokens = dv_tokens = self._embed(images)
        attention = []
        for index, block in enumerate(self.visual.transformer.resblocks):
            dv_tokens = tokens if index == dv_start else dv_tokens
            output = run_block(block, tokens)
            tokens = output.tokens
            cls_query = output.query[:, :, CLASS_TOKEN]
            attention.append(cls_attention(cls_query, output.key, over_patches=config.attention_over_patches).exp())
            if index >= dv_start:
                dv_tokens = run_dv_block(block, dv_tokens, output, config)
        projected = self._project(tokens)
        return ExplainedFeatures(
            image_features=self._image_features(projected),
            cls_attention=torch.stack(attention, dim=1),
            patch_features=_unit_length(_patches(projected)),
            dv_patch_features=self._dv_patch_features(dv_tokens),
        )

    def train_all_but(self, frozen_modules: Sequence[str] = ()) -> dict[str, nn.Parameter]:
        """Freeze the modules or parameters of these names, train the rest; returns the rest by state-dict name.

        Names are those inside the tower (`conv1.trunk`), with or without `visual.` before them. Parameters that
        open_clip itself keeps fixed (sine-cosine positions) stay so. Raises `ConfigInvalid` when a name fits nothing.
        """
        prefixes = tuple(name.removeprefix("visual.") for name in frozen_modules)
        names = [name.removeprefix("visual.") for name, _ in self.named_parameters()]
        for prefix in prefixes:
            if not any(_is_inside(name, prefix) for name in names):
                raise ConfigInvalid(
                    f"frozen_modules names {prefix!r}, which the image tower doesn't have; it has "
                    f"{', '.join(sorted({name.split('.')[0] for name in names}))}.",
                    param="frozen_modules",
                )
        for name, parameter in self.named_parameters():
            is_frozen = any(_is_inside(name.removeprefix("visual."), prefix) for prefix in prefixes)
            parameter.requires_grad_(not is_frozen and name not in self._fixed)
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        if not trained:
            raise ConfigInvalid("frozen_modules leaves nothing to train.", param="frozen_modules")
        return trained

    def _run_block(
        self,
        block: ResidualAttentionBlock,
        tokens: Tensor,
        class_token_only: bool = False,
        attention_over_patches: bool | None = None,
    ) -> tuple[BlockOutput, Tensor | None]:
        """A block and, unless None, its class token's attention: together what is computed again, if anything is."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            # Nothing in a block is random.
            return checkpoint(
                _run_and_attend, block, tokens, class_token_only, attention_over_patches,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
        return _run_and_attend(block, tokens, class_token_only, attention_over_patches)

    @property
    def _pools_class_token(self) -> bool:
        return bool(self.visual.pool_type == "tok")

    def _num_aligned_layers(self, config: FinetuneConfig) -> int:
        if config.num_aligned_layers > self.num_blocks:
            raise ConfigInvalid(
                f"num_aligned_layers is {config.num_aligned_layers}; the image tower has {self.num_blocks} blocks.",
                param="num_aligned_layers",
            )
        return config.num_aligned_layers

    def _dv_start(self, config: FinetuneConfig) -> int:
        if config.dv_start_block is None:
            return max(self.num_blocks - NUM_DV_BLOCKS, 0)
        if config.dv_start_block >= self.num_blocks:
            raise ConfigInvalid(
                f"dv_start_block is {config.dv_start_block}; the image tower has blocks 0 to {self.num_blocks - 1}.",
                param="dv_start_block",
            )
        return config.dv_start_block

    def _embed(self, images: Tensor) -> Tensor:
        return self.visual._embeds(images)  # type: ignore[no-any-return]

    def _project(self, tokens: Tensor) -> Tensor:
        """Tokens in the space of the text features, before they get unit length."""
        return self.visual.ln_post(tokens) @ self.visual.proj  # type: ignore[no-any-return]

    def _image_features(self, projected: Tensor) -> Tensor:
        pooled = projected[:, CLASS_TOKEN] if self._pools_class_token else _patches(projected).mean(dim=1)
        return _unit_length(pooled)

    @torch.no_grad()
    def _dv_patch_features(self, dv_tokens: Tensor) -> Tensor:
        return _unit_length(self._project(_patches(dv_tokens)))


def _run_and_attend(
    block: ResidualAttentionBlock, tokens: Tensor, class_token_only: bool, attention_over_patches: bool | None
) -> tuple[BlockOutput, Tensor | None]:
    output = run_block(block, tokens, class_token_only=class_token_only)
    if attention_over_patches is None:
        return output, None
    cls_query = output.query[:, :, CLASS_TOKEN]
    return output, cls_attention(cls_query, output.key, over_patches=attention_over_patches)


def _patches(tokens: Tensor) -> Tensor:
    return tokens[:, CLASS_TOKEN + 1 :]


def _unit_length(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)


def _is_inside(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _fitting(visual: nn.Module) -> VisionTransformer:
    if not isinstance(visual, VisionTransformer):
        raise BaseModelUnfit(
            f"The image tower is a {type(visual).__name__}; AlignCLIP needs open_clip's VisionTransformer, "
            "whose class token attends to patches."
        )
    reasons = {
        "pools by attention": visual.attn_pool is not None,
        "normalises after pooling": visual.final_ln_after_pool,
        f"has pool_type {visual.pool_type!r}": visual.pool_type not in ("tok", "avg"),
        "has attention blocks of a special type": not all(
            isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise BaseModelUnfit(
                f"The image tower {reason}; AlignCLIP needs plain blocks, then layer norm, then the class token "
                "or the mean of the patches ('tok' or 'avg')."
            )
    return visual
