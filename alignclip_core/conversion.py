"""A foreign checkpoint to a base model's folder: tensors alone are read, no code of the file is run."""

from __future__ import annotations

import argparse
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alignclip_core.base_models import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, read_card
from alignclip_core.encoder import build_image_encoder, build_model
from alignclip_core.encoder.plain_resnet import AS_TORCHVISION, LAST_LAYER, is_resnet_name, make_resnet, write_folder
from alignclip_core.encoder.pull import written_aside
from alignclip_core.errors import ConversionRefused
from alignclip_core.run_dir import file_sha256
from alignclip_core.timm_names import architecture_of_timm, has_timm_names, rename_from_timm

Normalisation = Literal["openai", "imagenet"]
_MEAN_AND_STD: Mapping[Normalisation, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "openai": (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "clip")  # keys under which trainers keep the weights
PREFIXES = ("_orig_mod.", "module.", "model.", "clip.", "clip_model.")  # of torch.compile, DDP and wrapping modules
TEXT_PREFIXES = ("text.", "encode_text.")  # open_clip's own for some towers, and DeCLIP's
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's files
NO_WEIGHT_ENDINGS = ("attn_mask", "position_ids")  # buffers that every build makes anew
NUM_NAMES_SHOWN = 4


def convert_checkpoint(
    file: Path,
    architecture: str,
    folder: Path,
    *,
    quick_gelu: bool | None = None,
    normalisation: Normalisation = "openai",
) -> Path:
    """Write the checkpoint as a base model's folder, aside and renamed; the folder.

    `architecture` is a name of open_clip's or the path of such a configuration, or a ResNet of torchvision's, such as
    resnet50, which becomes a model without a text tower; `quick_gelu` None is what it says (a file of SLIP's has GELU
    in the image tower and QuickGELU in the text tower; there it is about the text tower). `normalisation`: of the
    images that the weights were trained on; a checkpoint does not say, and torchvision's are ImageNet's. Raises
    `ConversionRefused` for files that need code to be read and for tensors that don't fit, `BaseModelUnfit` for towers
    that can't be aligned.
    """
    if folder.exists():
        raise ConversionRefused(f"{folder} is there already; name another folder.", param="output")
    if is_resnet_name(architecture):
        return _convert_resnet(file, architecture, folder)
    config = read_architecture(architecture)
    tensors = without_prefixes(read_tensors(file))
    if has_timm_names(tensors):
        tensors, config = rename_from_timm(tensors), architecture_of_timm(config, quick_gelu)
    elif quick_gelu is not None:
        config["quick_gelu"] = quick_gelu
    expected = _expected_shapes(config)
    weights = fit_names(tensors, expected)
    _check_shapes(weights, expected, architecture)
    mean, std = _MEAN_AND_STD[normalisation]
    preprocessing = {"mean": mean, "std": std, "interpolation": PreprocessCfg().interpolation}
    with written_aside(folder) as aside:
        (aside / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}, indent=2))
        save_file({name: value.clone().contiguous() for name, value in weights.items()}, aside / WEIGHTS_FILE)
        (aside / WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody but the owner read it
        (aside / CARD_FILE).write_text(json.dumps(_card(file, architecture, config), indent=2))
        build_model(read_card(aside, folder.name))  # what cannot be built is not kept
    return folder


def _convert_resnet(file: Path, architecture: str, folder: Path) -> Path:
    config = {"architecture": architecture, "pretrained_cfg": AS_TORCHVISION}
    tensors = without_prefixes(read_tensors(file))
    weights = {name: value for name, value in tensors.items() if not name.startswith(LAST_LAYER)}
    _check_shapes(weights, _shapes_of(make_resnet(config)), architecture)
    with written_aside(folder) as aside:
        write_folder(aside, config, weights)
        digest = file_sha256(file)[:16]
        card = {"architecture": architecture, "description": f"Converted from {file.name} (sha256 {digest})."}
        (aside / CARD_FILE).write_text(json.dumps(card, indent=2))
        build_image_encoder(read_card(aside, folder.name))
    return folder


def read_architecture(architecture: str) -> dict[str, Any]:
    """open_clip's model_cfg of a name or of a JSON file. Raises `ConversionRefused`."""
    path = Path(architecture)
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text())
            config: dict[str, Any] | None = content.get("model_cfg", content)
        except (OSError, ValueError, AttributeError) as error:
            raise ConversionRefused(f"{path} is no configuration of open_clip's: {error}.", param="architecture") from (
                error
            )
    else:
        config = open_clip.get_model_config(architecture)
    if config is None or not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise ConversionRefused(
            f"open_clip has no architecture {architecture!r}; its names are like ViT-B-32, ViT-B-16-quickgelu or "
            "ViT-L-14 (open_clip.list_models()); nor has torchvision such a ResNet, as resnet50.",
            param="architecture",
        )
    if config["text_cfg"].get("hf_model_name"):
        raise ConversionRefused(
            f"The text tower of {architecture} is {config['text_cfg']['hf_model_name']}, whose configuration and "
            "tokenizer no checkpoint holds; let open_clip fetch the model: alignclip models pull.",
            param="architecture",
        )
    return config


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, out of what it is wrapped in. Raises `ConversionRefused`."""
    content = _load(file)
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            raise ConversionRefused(
                f"{file.name} holds no tensors, nor a state dict under {', '.join(WRAPPERS)}; it holds "
                f"{_shown(map(str, content))}.",
                param="file",
            )
        content = inner
    if not isinstance(content, Mapping):
        raise ConversionRefused(
            f"{file.name} holds a {type(content).__name__}, no state dict; save one with "
            "torch.save(model.state_dict(), FILE).",
            param="file",
        )
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def without_prefixes(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the prefixes of wrapping modules taken off."""
    bare = dict(weights)
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in bare)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare


def fit_names(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors under open_clip's names, what is no weight left out."""
    fitted = {}
    for name, value in weights.items():
        if name in NO_WEIGHTS or name.endswith(NO_WEIGHT_ENDINGS):
            continue
        bare = next((name.removeprefix(prefix) for prefix in TEXT_PREFIXES if name.startswith(prefix)), name)
        candidates = (name, bare, f"text.{bare}")
        fitted[next((candidate for candidate in candidates if candidate in expected), name)] = value
    return fitted


def _load(file: Path) -> Any:
    if not file.is_file():
        raise ConversionRefused(f"There is no file {str(file)!r}.", param="file")
    if _is_torchscript(file):
        raise ConversionRefused(
            f"{file.name} is a TorchScript archive, a program. OpenAI's models come with alignclip models pull; of "
            "others save the weights: torch.save(torch.jit.load(FILE).state_dict(), NEW).",
            param="file",
        )
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # A namespace of options holds plain values; it is what trainers keep beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        raise ConversionRefused(
            f"{file.name} cannot be read as tensors alone ({_first_line(error)}). If it holds objects of a program, "
            "save its state dict alone where that program is: torch.save(checkpoint['state_dict'], NEW).",
            param="file",
        ) from error


def _is_torchscript(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # torch's form before 2020, or no checkpoint
        return False


def _expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    kind = CustomTextCLIP if config.get("custom_text") else CLIP
    known = {name: config[name] for name in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu") if name in config}
    with torch.device("meta"):
        return _shapes_of(kind(**known))


def _shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _check_shapes(weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], architecture: str) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    other = [
        f"{name} is {list(weights[name].shape)}, wanted {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in weights and tuple(weights[name].shape) != shape
    ]
    faults = {"It lacks": missing, "It has, and the architecture has not,": unknown, "Of other shapes:": other}
    if not any(faults.values()):
        return
    words = [f"{words} {_shown(names)}." for words, names in faults.items() if names]
    raise ConversionRefused(f"The checkpoint is no {architecture}. {' '.join(words)}{_hint(unknown)}", param="file")


def _hint(unknown: list[str]) -> str:
    if any(".blocks." in name or ".attn.qkv." in name for name in unknown):
        return (
            " The image tower has timm's names (visual.blocks..., attn.qkv) but is no plain ViT as SLIP's, with a "
            "class token and learned positions; only that, open_clip's and OpenAI's names are read."
        )
    if any(name.startswith(("vision_model.", "text_model.")) for name in unknown):
        return " These are the names of transformers' CLIPModel; only open_clip's and OpenAI's are read."
    return ""


def _card(file: Path, architecture: str, config: Mapping[str, Any]) -> dict[str, Any]:
    digest = file_sha256(file)
    activation = "QuickGELU" if config.get("quick_gelu") else "GELU"
    if config.get("text_quick_gelu", config.get("quick_gelu")) != config.get("quick_gelu"):
        activation += ", QuickGELU in the text tower"
    return {
        "architecture": architecture,
        "text_model": f"converted/{digest[:16]}",
        "description": f"Converted from {file.name} ({activation}, sha256 {digest[:16]}).",
    }


def _shown(names: Any) -> str:
    listed = list(names)
    more = f" and {len(listed) - NUM_NAMES_SHOWN} more" if len(listed) > NUM_NAMES_SHOWN else ""
    return f"{'; '.join(listed[:NUM_NAMES_SHOWN])}{more}" if listed else "nothing"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Unsupported" in line or "GLOBAL" in line]
    return (named or lines or [type(error).__name__])[0][:200]
