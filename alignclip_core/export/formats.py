"""The formats' names. Loads no torch."""

from __future__ import annotations

from typing import Literal, get_args

ExportFormat = Literal["open_clip", "huggingface", "onnx"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

ABOUT_FILE = "alignclip.json"  # in every export: classes, templates, preprocessing, logit scale, where it comes from
ONNX_FILE = "model.onnx"
CLASS_EMBEDDINGS_FILE = "class_embeddings.npy"
