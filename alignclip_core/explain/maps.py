"""Maps over the patches of one image, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from alignclip_core.config import FinetuneConfig, make_config
from alignclip_core.encoder import TextEncoder
from alignclip_core.finished_model import FinishedModel
from alignclip_core.pixels import normalise, prepare_image


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps [rows, columns] over the patches of an image, the top row first; fp32."""

    cls_attention: np.ndarray  # A_c of eq 3: the mean of the first L blocks; sums to one
    cls_attention_by_block: np.ndarray  # [blocks, rows, columns], each sums to one
    patch_similarity: np.ndarray  # cosine of each patch with the text, main branch (eq 4 before its softmax)
    dv_patch_similarity: np.ndarray  # the same of the D-V branch, G* of eq 6
    image_similarity: float  # cosine of the whole image with the text

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, and under `<name>_normalised` the maps scaled from their smallest to their largest value."""
        raw = {field.name: np.asarray(getattr(self, field.name), np.float32) for field in fields(self)}
        scaled = {f"{name}_normalised": normalised(value) for name, value in raw.items() if value.ndim >= 2}
        return raw | scaled


@torch.no_grad()
def embed_label(
    model: FinishedModel, text_encoder: TextEncoder, image: Image.Image, label: str
) -> Float[Tensor, " dim"]:
    """What the model would know the label by in this image, at unit length: a text's embedding or a learned one."""
    features = model.image_encoder(_pixels_of(model, image)) if model.needs_image_features else None
    return F.normalize(model.class_embeddings_of(text_encoder, [label], image_features=features).flatten(), dim=0)


@torch.no_grad()
def make_maps(model: FinishedModel, image: Image.Image, text: Float[Tensor, " dim"]) -> Maps:
    """The maps of an image and the unit-length embedding of a label. The picture is RGB, as `decode_image` gives it.

    Branch and layers are those of the model's own config; a base model's are its card's.
    """
    config = config_of(model)
    encoder = model.image_encoder
    seen = encoder.forward_explained(_pixels_of(model, image), config)
    attention = seen.cls_attention[0]
    text = text.to(attention.device)
    return Maps(
        cls_attention=_grid(attention[: config.num_aligned_layers].mean(dim=0)),
        cls_attention_by_block=_grid(attention),
        patch_similarity=_grid(seen.patch_features[0] @ text),
        dv_patch_similarity=_grid(seen.dv_patch_features[0] @ text),
        image_similarity=float(seen.image_features[0] @ text),
    )


def normalised(values: np.ndarray) -> np.ndarray:
    """Each map [..., rows, columns] scaled so that its smallest value is 0 and its largest 1; a flat map is 0."""
    low = values.min(axis=(-2, -1), keepdims=True)
    span = values.max(axis=(-2, -1), keepdims=True) - low
    scaled: np.ndarray = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0).astype(np.float32)
    return scaled


def config_of(model: FinishedModel) -> FinetuneConfig:
    """The config that the model was tuned with, or that its base would be; of no more layers than the tower has."""
    if model.manifest is not None:
        config = FinetuneConfig.from_json(model.manifest["config"])
    else:
        config = make_config(model.base_model, class_names={"one": "one", "other": "other"})
    num_layers = min(config.num_aligned_layers, model.image_encoder.num_blocks)
    return replace(config, num_aligned_layers=num_layers)


def _pixels_of(model: FinishedModel, image: Image.Image) -> Tensor:
    device = next(model.image_encoder.parameters()).device
    return normalise(prepare_image(image, model.preprocessing)[None].to(device), model.preprocessing)


def _grid(patches: Tensor) -> np.ndarray:
    side = round(patches.shape[-1] ** 0.5)  # images are square
    grid: np.ndarray = patches.unflatten(-1, (side, side)).float().cpu().numpy()
    return grid
