"""A model of a hub, fetched by open_clip or timm, as a base model's folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import timm
from safetensors.torch import save_file
from torch import nn

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, BaseModel, is_whole
from alignclip_core.encoder import plain_resnet
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnfit, BaseModelUnknown


def pull_model(model: BaseModel, models_dir: Path, on_progress: Callable[[str], None] | None = None) -> Path:
    """Fetch a model by its card's `architecture` and `pretrained` and write it to `models_dir/<id>`; that folder.

    Written aside and renamed, so a folder of that name is complete; one that exists is returned as it is. `pretrained`
    is a tag of open_clip's or the path of a checkpoint; of a model without a text tower a tag of timm's. Raises
    `BaseModelUnknown` when the card names no source, `BaseModelNotLocal` when it cannot be fetched, `BaseModelUnfit`
    when an incomplete folder is in the way.
    """
    report = on_progress or (lambda message: None)
    folder = models_dir / model.id
    if is_whole(folder):
        report(f"{model.id} is already here: {folder}")
        return folder
    if folder.exists():
        raise BaseModelUnfit(f"{folder} exists but is no complete model; move it away and pull again.", param="model")
    if model.architecture is None or model.pretrained is None:
        raise BaseModelUnknown(f"The card of {model.id!r} names no architecture and weights to fetch.", param="model")

    report(f"Fetching {model.architecture}, {model.pretrained}")
    try:
        write = _fetch(model.architecture, model.pretrained, has_texts=model.has_texts)
    except (OSError, RuntimeError, ValueError) as error:
        raise BaseModelNotLocal(f"{model.id} could not be fetched: {error}", param="model") from error

    report(f"Writing {folder}")
    with written_aside(folder) as aside:
        write(aside)
    return folder


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder that gets this name once the block is done, and is gone if it fails."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fetch(architecture: str, pretrained: str, *, has_texts: bool) -> Callable[[Path], None]:
    """The model in memory, as what writes it to a folder."""
    if has_texts:
        clip, _, _ = open_clip.create_model_and_transforms(architecture, pretrained=pretrained)
        return lambda folder: write_folder(clip, architecture, folder)
    resnet = timm.create_model(f"{architecture}.{pretrained}", pretrained=True)
    config = {"architecture": architecture, "pretrained_cfg": resnet.pretrained_cfg}
    return lambda folder: plain_resnet.write_folder(folder, config, resnet.state_dict())


def write_folder(clip: nn.Module, architecture: str, folder: Path) -> None:
    """Write a model of open_clip in its own hub layout: configuration with the QuickGELU flag, weights, tokenizer."""
    config = open_clip.get_model_config(architecture)
    preprocess = {
        name: clip.visual.preprocess_cfg[name]  # type: ignore[index, union-attr]
        for name in ("mean", "std", "interpolation", "resize_mode")
    }
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2))
    save_file({name: value.contiguous() for name, value in clip.state_dict().items()}, folder / WEIGHTS_FILE)
    if config["text_cfg"].get("hf_model_name"):
        clip.text.config.save_pretrained(folder)  # type: ignore[operator, union-attr]
        open_clip.get_tokenizer(architecture).save_pretrained(folder)
