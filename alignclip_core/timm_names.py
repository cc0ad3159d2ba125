"""SLIP's files in open_clip's names: their image tower is timm's plain ViT, their text tower CLIP's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_BLOCK = re.compile(r"visual\.blocks\.(\d+)\.(.+)")
_IN_A_BLOCK = {
    "norm1.weight": "ln_1.weight",
    "norm1.bias": "ln_1.bias",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj.weight": "attn.out_proj.weight",
    "attn.proj.bias": "attn.out_proj.bias",
    "norm2.weight": "ln_2.weight",
    "norm2.bias": "ln_2.bias",
    "mlp.fc1.weight": "mlp.c_fc.weight",
    "mlp.fc1.bias": "mlp.c_fc.bias",
    "mlp.fc2.weight": "mlp.c_proj.weight",
    "mlp.fc2.bias": "mlp.c_proj.bias",
}
_BESIDE_BLOCKS = {
    "visual.patch_embed.proj.weight": "visual.conv1.weight",
    "visual.norm.weight": "visual.ln_post.weight",
    "visual.norm.bias": "visual.ln_post.bias",
    "image_projection": "visual.proj",
}
CLASS_TOKEN, POSITIONS, PATCH_BIAS = "visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.bias"
SELF_SUPERVISION = "image_mlp."  # SLIP's second head, which no text is compared with
NORM_EPSILON = 1e-6  # timm's; open_clip's is 1e-5


def has_timm_names(weights: Mapping[str, Tensor]) -> bool:
    """Whether the image tower is a plain ViT of timm's, as SLIP's code builds it."""
    return {CLASS_TOKEN, POSITIONS, PATCH_BIAS} <= weights.keys()


def rename_from_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under open_clip's names.

    open_clip's patches have no bias: it is added to their positions, which comes to the same.
    """
    renamed = {}
    for name, value in weights.items():
        block = _BLOCK.fullmatch(name)
        if block and block[2] in _IN_A_BLOCK:
            renamed[f"visual.transformer.resblocks.{block[1]}.{_IN_A_BLOCK[block[2]]}"] = value
        elif name not in (CLASS_TOKEN, POSITIONS, PATCH_BIAS) and not name.startswith(SELF_SUPERVISION):
            renamed[_BESIDE_BLOCKS.get(name, name)] = value
    positions = weights[POSITIONS].squeeze(0).clone()
    positions[1:] += weights[PATCH_BIAS]
    return renamed | {
        "visual.class_embedding": weights[CLASS_TOKEN].flatten(),
        "visual.positional_embedding": positions,
    }


def architecture_of_timm(config: Mapping[str, Any], text_quick_gelu: bool | None) -> dict[str, Any]:
    """open_clip's model_cfg for such towers: no norm before the blocks, timm's epsilon, GELU.

    The text tower has QuickGELU, as SLIP's code says, unless `text_quick_gelu` is False.
    """
    vision = {**config["vision_cfg"], "no_ln_pre": True, "norm_kwargs": {"eps": NORM_EPSILON}}
    return {**config, "vision_cfg": vision, "quick_gelu": False, "text_quick_gelu": text_quick_gelu is not False}
