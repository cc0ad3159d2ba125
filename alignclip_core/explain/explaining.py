"""An image and a label to a folder of arrays and pictures, before and after tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from alignclip_core.encoder import build_text_encoder
from alignclip_core.explain.maps import Maps, embed_label, make_maps
from alignclip_core.explain.pictures import PICTURE_SIDE, overlay, overview
from alignclip_core.finished_model import FinishedModel, load_base_model
from alignclip_core.images import Preprocessing
from alignclip_core.pixels import prepare_image

ARRAYS_FILE = "maps.npz"
ABOUT_FILE = "explanation.json"
OVERVIEW_FILE = "overview.png"
TITLES = {
    "cls_attention": "class-token attention",
    "patch_similarity": "patch-text similarity",
    "dv_patch_similarity": "the same, D-V branch",
}


def explain(model: FinishedModel, image: Image.Image, label: str, folder: Path) -> dict[str, Maps]:
    """Write maps and pictures of the image and the label to the folder; the maps by stage.

    A tuned model has two stages, `before` (its base) and `after`; a base model has `before` alone. The label is any
    text that the model's templates take.
    """
    text_encoder = build_text_encoder(model.base_model)
    stages = {"before": model} if model.manifest is None else {"before": _base_of(model), "after": model}
    maps = {
        stage: make_maps(of_stage, image, embed_label(of_stage, text_encoder, image, label))
        for stage, of_stage in stages.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{stage}_{name}": array for stage, of_stage in maps.items() for name, array in of_stage.arrays().items()}
    np.savez_compressed(folder / ARRAYS_FILE, **arrays)  # type: ignore[arg-type]
    about = {
        "label": label,
        "base_model": model.base_model.id,
        "templates": list(model.templates),
        "image_similarity": {stage: of_stage.image_similarity for stage, of_stage in maps.items()},
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=2))
    write_pictures(picture_seen(image, model.preprocessing), maps, folder)
    return maps


def write_pictures(image: Image.Image, maps: Mapping[str, Maps], folder: Path) -> None:
    """One picture a map, each scaled from its own smallest to its own largest value, and all of them in an overview."""
    rows: dict[str, list[Image.Image]] = {}
    for stage, of_stage in maps.items():
        arrays = of_stage.arrays()
        rows[stage] = [image]
        for name in TITLES:
            rows[stage].append(overlay(image, arrays[f"{name}_normalised"]))
            rows[stage][-1].save(folder / f"{stage}_{name}.png")
        for block, values in enumerate(arrays["cls_attention_by_block_normalised"]):
            overlay(image, values).save(folder / f"{stage}_cls_attention_block_{block:02d}.png")
    overview(rows, ["image", *TITLES.values()]).save(folder / OVERVIEW_FILE)


def _base_of(model: FinishedModel) -> FinishedModel:
    """The base model, looked at in the tuned model's way: its config and its preprocessing."""
    base = load_base_model(model.base_model)
    return replace(
        base,
        preprocessing=model.preprocessing,
        templates=model.templates,
        hyphens_to_spaces=model.hyphens_to_spaces,
        manifest=model.manifest,
    )


def picture_seen(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The part of the image that the tower sees, large enough to look at."""
    pixels = prepare_image(image, preprocessing).permute(1, 2, 0).numpy()
    side = max(preprocessing.image_size, PICTURE_SIDE)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
