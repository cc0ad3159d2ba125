"""Any model in any format."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alignclip_core.errors import ExportUnfit
from alignclip_core.export import hugging_face, onnx_graph, open_clip_folder
from alignclip_core.export.fitness import check_fits
from alignclip_core.export.formats import ABOUT_FILE, ExportFormat
from alignclip_core.finished_model import FinishedModel

_WRITERS: Mapping[ExportFormat, Callable[[FinishedModel, Path], None]] = {
    "open_clip": open_clip_folder.write,
    "huggingface": hugging_face.write,
    "onnx": onnx_graph.write,
}


def export_model(model: FinishedModel, export_format: ExportFormat, folder: Path) -> Path:
    """Write the model to a new folder that the format's own library reads; the folder.

    Written aside and renamed. Raises `ExportUnfit` when the format cannot hold the architecture or the folder is there.
    """
    check_fits(model.base_model, export_format, model.manifest or {})
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportUnfit(f"{folder} is there already and not empty; name a new folder.", param="output")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    aside.mkdir(parents=True)
    try:
        _WRITERS[export_format](model, aside)
        (aside / ABOUT_FILE).write_text(json.dumps(about(model), indent=2))
        aside.replace(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def about(model: FinishedModel) -> dict[str, Any]:
    """What a user of the weights needs to know, as JSON."""
    manifest = model.manifest or {}
    return {
        "base_model": model.base_model.id,
        "text_model": model.base_model.text_model,
        "labels": list(model.labels),
        "class_names": dict(model.class_names),
        "trained_classes": manifest.get("trained_classes", []),
        "templates": list(model.templates),
        "hyphens_to_spaces": model.hyphens_to_spaces,
        "logit_scale": model.logit_scale,
        "preprocessing": asdict(model.preprocessing),
        **{name: manifest[name] for name in ("interpolated_from", "alpha") if name in manifest},
    }
