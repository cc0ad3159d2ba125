"""Whether a config fits an image tower, and how large its training is: found out from names and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.encoder.resnet import ResNetEncoder
from alignclip_core.encoder.trained import TrainedTower

# What a block keeps for its backward pass (Korthikanti et al. 2022, for the plain attention of transformers).
FLOATS_PER_TOKEN_AND_CHANNEL = 17
FLOATS_PER_ATTENTION = 2.5  # scores, their softmax, and a mask


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """How many numbers the training of a tower under a config is about."""

    num_parameters: int  # of the tower
    num_trained: int  # that the optimizer changes; with `lora` those of the additions
    num_changed: int  # weights that this amounts to, which averages hold
    is_computed: bool  # the changed weights are computed from the trained ones, and stand beside them
    num_activations: float  # of one image, kept for the backward pass


def check_fits(encoder: ImageEncoder, config: FinetuneConfig) -> TrainingSize:
    """The size of the training. The encoder may be on the device "meta", and stays as it is.

    Raises `ConfigInvalid` for blocks, branches, pooling and parameters that it does not have.
    """
    tower = copy.deepcopy(encoder).to("meta")
    tower.check(config)
    trained = TrainedTower(tower, config)
    plain = trained.weights()
    return TrainingSize(
        num_parameters=_numel({**trained.untouched(), **plain}),
        num_trained=_numel(trained.parameters),
        num_changed=_numel(plain),
        is_computed=plain.keys() != trained.parameters.keys(),
        num_activations=_num_activations(encoder, config),
    )


def _num_activations(encoder: ImageEncoder, config: FinetuneConfig) -> float:
    """All that blocks keep, or with gradient checkpointing their inputs and one block's inside.

    Blocks below the first that is trained keep nothing.
    """
    if config.trainable == "none":
        return 0.0
    num_blocks, per_block, between_blocks = _blocks_of(encoder)
    if config.trainable == "last_k_blocks":
        num_blocks = min(config.trainable_blocks, num_blocks)
    if config.gradient_checkpointing:
        return num_blocks * between_blocks + per_block
    return num_blocks * per_block


def _blocks_of(encoder: ImageEncoder) -> tuple[int, float, float]:
    """Number of blocks, numbers that one keeps for an image, and numbers between two of them."""
    visual = encoder.visual
    if isinstance(encoder, ResNetEncoder):  # its first stages, at half the size, outweigh the rest: they are the block
        positions = float((encoder.preprocess.image_size // 2) ** 2 * visual.conv3.out_channels)
        return 1, FLOATS_PER_TOKEN_AND_CHANNEL * positions, positions
    num_tokens, width = visual.positional_embedding.shape
    num_heads = visual.transformer.resblocks[0].attn.num_heads
    stream = float(num_tokens * width)
    block = FLOATS_PER_TOKEN_AND_CHANNEL * stream + FLOATS_PER_ATTENTION * num_heads * num_tokens**2
    return encoder.num_blocks, block, stream


def _numel(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
