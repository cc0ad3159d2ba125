"""Whether a config fits an image tower, and how large its training is: found out from names and shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from alignclip_core.config import PROMPT_LEARNERS, FinetuneConfig
from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.encoder.plain_resnet import PlainResNetEncoder
from alignclip_core.encoder.resnet import ResNetEncoder
from alignclip_core.encoder.text_tower import PLACE, TextEncoder
from alignclip_core.encoder.trained import TrainedTower

# What a block keeps for its backward pass (Korthikanti et al. 2022, for the plain attention of transformers).
FLOATS_PER_TOKEN_AND_CHANNEL = 17
FLOATS_PER_STEM_OF_RESNET = 26.5  # for each number that its first layer gives; counted of ResNet-50
FLOATS_PER_ATTENTION = 2.5  # scores, their softmax, and a mask
MAX_CONTEXT_TOKENS = 16  # before a name in a learned prompt: DPL's, the longest


@dataclass(frozen=True, kw_only=True)
class TrainingSize:
    """How many numbers the training of a tower under a config is about."""

    num_parameters: int  # of the tower
    num_trained: int  # that the optimizer changes; with `lora` those of the additions
    num_changed: int  # weights that this amounts to, which averages hold
    is_computed: bool  # the changed weights are computed from the trained ones, and stand beside them
    num_activations: float  # of one image, kept for the backward pass
    num_frozen: int = 0  # of towers that only give answers beside it: a frozen copy, the text tower of learned prompts
    num_prompt_activations: float = 0.0  # of a prompt for each trained class, kept for the backward pass


def check_fits(encoder: ImageEncoder, config: FinetuneConfig, text_encoder: TextEncoder | None = None) -> TrainingSize:
    """The size of the training. The encoder may be on the device "meta", and stays as it is.

    `text_encoder`: through which prompts are learned; without one its part is not counted.
    Raises `ConfigInvalid` for blocks, branches, pooling and parameters that it does not have, `BaseModelUnfit` for what
    reads texts where it has none.
    """
    trained = TrainedTower(copy.deepcopy(encoder).to("meta"), config)
    plain = trained.weights()
    num_parameters = _numel({**trained.untouched(), **plain})
    texts = text_encoder if config.algorithm in PROMPT_LEARNERS else None
    has_frozen_copy = config.algorithm == "miro" or config.frozen_distance_weight > 0
    num_frozen = num_parameters if has_frozen_copy else 0
    return TrainingSize(
        num_parameters=num_parameters,
        num_trained=_numel(trained.parameters),
        num_changed=_numel(plain),
        is_computed=plain.keys() != trained.parameters.keys(),
        num_activations=_num_activations(encoder, config),
        num_frozen=num_frozen if texts is None else texts.num_parameters,
        num_prompt_activations=0.0 if texts is None else _num_prompt_activations(texts, config),
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
    half_size = encoder.preprocess.image_size // 2
    if isinstance(encoder, PlainResNetEncoder):
        positions = float(half_size**2 * visual.conv1.out_channels)
        return 1, FLOATS_PER_STEM_OF_RESNET * positions, positions
    if isinstance(encoder, ResNetEncoder):  # its first stages, at half the size, outweigh the rest: they are the block
        positions = float(half_size**2 * visual.conv3.out_channels)
        return 1, FLOATS_PER_TOKEN_AND_CHANNEL * positions, positions
    num_tokens, width = visual.positional_embedding.shape
    num_heads = visual.transformer.resblocks[0].attn.num_heads
    return encoder.num_blocks, _of_block(num_tokens, width, num_heads), float(num_tokens * width)


def _of_block(num_tokens: int, width: int, num_heads: int) -> float:
    return FLOATS_PER_TOKEN_AND_CHANNEL * num_tokens * width + FLOATS_PER_ATTENTION * num_heads * num_tokens**2


def _num_prompt_activations(text_encoder: TextEncoder, config: FinetuneConfig) -> float:
    context = " ".join([PLACE] * MAX_CONTEXT_TOKENS)
    prompts = [f"{context} {config.class_names[name]}." for name in config.trained_classes]
    num_blocks, num_heads = text_encoder.blocks
    num_tokens = text_encoder.num_tokens(prompts)
    return len(prompts) * num_blocks * _of_block(num_tokens, text_encoder.token_width, num_heads)


def _numel(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
