"""The image tower as an ONNX graph with the logits beside it; the text tower stays behind.

inputs    pixel_values      float32 [batch, 3, size, size], resized, cropped and normalised as the metadata says
          class_embeddings  float32 [classes, dim], unit length: those of class_embeddings.npy, or any others
                            (a linear head's rows, which the file then holds, have lengths of their own)
outputs   image_features    float32 [batch, dim], unit length
          logits            float32 [batch, classes]: logit_scale x cosine; their softmax is the probability
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from alignclip_core.encoder import ImageEncoder, build_text_encoder
from alignclip_core.export.formats import CLASS_EMBEDDINGS_FILE, ONNX_FILE
from alignclip_core.finished_model import FinishedModel

MAX_BYTES_IN_ONE_FILE = 1_500_000_000  # of weights: a protobuf ends at 2 GB; more goes into a file beside the graph


class _Graph(nn.Module):
    def __init__(self, encoder: ImageEncoder, logit_scale: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.logit_scale = logit_scale

    def forward(self, pixel_values: Tensor, class_embeddings: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(pixel_values)
        return features, self.logit_scale * features @ class_embeddings.T


@torch.no_grad()
def write(model: FinishedModel, folder: Path) -> None:
    """The graph with its metadata, and for a model with classes of its own their embeddings."""
    encoder = model.image_encoder.requires_grad_(False)
    size = model.preprocessing.image_size
    dim = encoder(torch.zeros(1, 3, size, size)).shape[1]
    batch, classes = torch.export.Dim("batch", min=1), torch.export.Dim("classes", min=1)
    exported = torch.onnx.export(
        _Graph(encoder, model.logit_scale).eval(),
        (torch.zeros(2, 3, size, size), torch.zeros(3, dim)),  # sizes that no other axis has, so that they stay free
        input_names=["pixel_values", "class_embeddings"],
        output_names=["image_features", "logits"],
        dynamic_shapes=({0: batch}, {0: classes}),
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    exported.model.metadata_props.update(_metadata(model))
    num_bytes = sum(value.nbytes for value in encoder.state_dict().values())
    exported.save(folder / ONNX_FILE, external_data=num_bytes > MAX_BYTES_IN_ONE_FILE)
    if model.labels:
        text_encoder = build_text_encoder(model.base_model)
        embeddings = model.class_embeddings_of(text_encoder, model.labels)
        np.save(folder / CLASS_EMBEDDINGS_FILE, embeddings.numpy())


def _metadata(model: FinishedModel) -> dict[str, str]:
    """Each value is JSON; `labels` are the rows of class_embeddings.npy."""
    values = {
        "labels": list(model.labels),
        "templates": list(model.templates),
        "logit_scale": model.logit_scale,
        "preprocessing": asdict(model.preprocessing),
        "base_model": model.base_model.id,
        "text_model": model.base_model.text_model,
    }
    return {f"alignclip.{name}": json.dumps(value) for name, value in values.items()}
