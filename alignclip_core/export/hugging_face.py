"""A folder that transformers' `CLIPModel.from_pretrained` and `CLIPProcessor.from_pretrained` read, made offline."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.tokenizer import bytes_to_unicode, default_bpe
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from alignclip_core.base_models import BaseModel
from alignclip_core.errors import ExportUnfit
from alignclip_core.export.fitness import model_config
from alignclip_core.export.open_clip_folder import clip_weights
from alignclip_core.finished_model import FinishedModel
from alignclip_core.images import Preprocessing

VOCABULARY_SIZE = 49408  # of OpenAI's byte pair encoding
NUM_MERGES = 49152 - 256 - 2  # of the file, as OpenAI's tokenizer reads it
START, END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1
RESAMPLING = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers

# open_clip's names within a tower and CLIPModel's.
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_VISION_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_TEXT_NAMES = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_BLOCK_PREFIX = "transformer.resblocks."


def write(model: FinishedModel, folder: Path) -> None:
    """config.json, model.safetensors, tokenizer and image processor."""
    image_processor = _image_processor(model.preprocessing)
    clip = CLIPModel(_config(model.base_model))
    clip.load_state_dict(rename_weights(clip_weights(model)))
    clip.save_pretrained(folder)
    context_length = CLIPTextCfg(**model_config(model.base_model)["text_cfg"]).context_length
    CLIPProcessor(image_processor=image_processor, tokenizer=_tokenizer(context_length)).save_pretrained(folder)


def rename_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP's state dict from open_clip's names to CLIPModel's."""
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        name = name.removeprefix("text.")
        if name == "logit_scale":
            renamed[name] = value
        elif name in ("visual.proj", "text_projection"):
            projection = "visual_projection" if name == "visual.proj" else name
            renamed[f"{projection}.weight"] = value.T.contiguous()
        elif name.startswith("visual."):
            renamed |= _rename(name.removeprefix("visual."), value, "vision_model", _VISION_NAMES)
        else:
            renamed |= _rename(name, value, "text_model", _TEXT_NAMES)
    return renamed


def _rename(name: str, value: Tensor, tower: str, names: dict[str, str]) -> dict[str, Tensor]:
    if not name.startswith(_BLOCK_PREFIX):
        return {f"{tower}.{names[name]}": value}
    index, _, inner = name.removeprefix(_BLOCK_PREFIX).partition(".")
    block = f"{tower}.encoder.layers.{index}"
    if inner.startswith("attn.in_proj_"):  # query, key and value in one tensor
        kind = inner.removeprefix("attn.in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{block}.self_attn.{letter}_proj.{kind}": part.contiguous() for letter, part in parts}
    module, _, kind = inner.rpartition(".")
    return {f"{block}.{_BLOCK_NAMES[module]}.{kind}": value}


def _config(base_model: BaseModel) -> CLIPConfig:
    config = model_config(base_model)
    vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
    shared: dict[str, Any] = {
        "hidden_act": "quick_gelu" if config.get("quick_gelu") else "gelu",
        "projection_dim": config["embed_dim"],
    }
    return CLIPConfig(
        projection_dim=config["embed_dim"],
        vision_config=shared
        | {
            "hidden_size": vision.width,
            "intermediate_size": int(vision.width * vision.mlp_ratio),
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.width // vision.head_width,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
        },
        text_config=shared
        | {
            "hidden_size": text.width,
            "intermediate_size": int(text.width * text.mlp_ratio),
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context_length,
            "vocab_size": text.vocab_size,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
    )


def _tokenizer(context_length: int) -> CLIPTokenizer:
    """OpenAI's, from the byte pairs that open_clip carries."""
    with gzip.open(default_bpe()) as file:
        lines = file.read().decode().split("\n")[1 : NUM_MERGES + 1]
    letters = list(bytes_to_unicode().values())
    merges: Any = [tuple(line.split()) for line in lines]  # annotated as text, taken as pairs
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {word: number for number, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocabulary, merges, model_max_length=context_length)


def _image_processor(preprocessing: Preprocessing) -> CLIPImageProcessor:
    size = preprocessing.image_size
    square = {"height": size, "width": size}
    if preprocessing.resize_mode not in ("shortest", "squash"):
        raise ExportUnfit(
            f"The images are resized with {preprocessing.resize_mode!r}, which CLIPImageProcessor does not do; export "
            "the model as 'open_clip' or 'onnx'.",
            param="format",
        )
    squashes = preprocessing.resize_mode == "squash"
    return CLIPImageProcessor(
        size=square if squashes else {"shortest_edge": size},
        crop_size=square,
        do_center_crop=not squashes,
        resample=RESAMPLING[preprocessing.interpolation],
        image_mean=list(preprocessing.mean),
        image_std=list(preprocessing.std),
    )
