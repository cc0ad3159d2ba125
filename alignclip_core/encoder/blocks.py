"""One block of open_clip's transformer, run with its query, key and value in sight, and its share of the D-V branch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from open_clip.transformer import ResidualAttentionBlock as Block
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.config import FinetuneConfig
from alignclip_core.method.attention import CLASS_TOKEN, dv_attention


class BlockOutput(NamedTuple):
    """What a block gives, and what it computed on the way; query, key, value are [batch, heads, tokens, head_dim]."""

    tokens: Tensor  # [batch, tokens, width]
    query: Tensor  # of the class token alone where only its row was asked for
    key: Tensor
    value: Tensor


def run_block(block: Block, tokens: Tensor, *, class_token_only: bool = False) -> BlockOutput:
    """What open_clip's ResidualAttentionBlock does, with query, key and value in sight.

    `class_token_only`: the class token's row alone, which is all that the last block must give for its features.
    """
    normed = block.ln_1(tokens)
    query, key, value = _project_heads(block.attn, normed, class_token_only)
    if class_token_only:
        tokens = tokens[:, : CLASS_TOKEN + 1]
    attended = F.scaled_dot_product_attention(query, key, value)
    tokens = tokens + block.ls_1(block.attn.out_proj(_merge_heads(attended)))
    tokens = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return BlockOutput(tokens, query, key, value)


@torch.no_grad()
def run_dv_block(block: Block, dv_tokens: Tensor, main: BlockOutput, config: FinetuneConfig) -> Tensor:
    """CLIP Surgery's dual path: attention from the main stream's projections, residual kept, no MLP by default."""
    attended = dv_attention(main.query.detach(), main.key.detach(), main.value.detach(), config.dv_structure)
    dv_tokens = dv_tokens + block.ls_1(block.attn.out_proj(_merge_heads(attended)))
    return dv_tokens + block.ls_2(block.mlp(block.ln_2(dv_tokens))) if config.dv_mlp else dv_tokens


def _project_heads(
    attention: nn.MultiheadAttention, normed: Tensor, class_token_only: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, each [batch, heads, tokens, head_dim]."""
    weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.embed_dim
    if not class_token_only:
        projected = F.linear(normed, weight, bias).chunk(3, dim=-1)
    else:
        class_token = normed[:, : CLASS_TOKEN + 1]
        query = F.linear(class_token, weight[:width], bias[:width])
        projected = (query, *F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1))
    query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
    return query, key, value


def _merge_heads(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(2)
