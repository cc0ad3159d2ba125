"""A ResNet that was trained to name ImageNet's classes, without its last layer: an image tower with no texts beside it.

Its folder is timm's: `config.json`, `model.safetensors`, under torchvision's own parameter names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alignclip_core.base_models import IMAGE_ONLY_CONFIG_FILE, IMAGE_ONLY_WEIGHTS_FILE
from alignclip_core.config import FinetuneConfig, Pooling
from alignclip_core.encoder.image_tower import ExplainedFeatures, ImageEncoder
from alignclip_core.encoder.text_tower import TextEncoder
from alignclip_core.encoder.weights import fill, read_weights
from alignclip_core.errors import BaseModelUnfit, ConfigInvalid
from alignclip_core.image_only import check_config, without_texts
from alignclip_core.images import Preprocessing

LAST_LAYER = "fc."  # begins the names of what knows ImageNet's own classes
AS_TORCHVISION: Mapping[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
}
"""How torchvision's classifiers of ImageNet see an image, in timm's words."""


class PlainResNetEncoder(ImageEncoder):
    """A ResNet of timm's whose features are the mean of its patches, as long as the network makes them.

    There is no text whose direction they would be compared with: a linear head takes them as they are. The mean looks
    at every patch alike, and a patch's own value is what the D-V branch has elsewhere; so the similarity of patches
    with a class of the head is the class activation map.
    """

    def __init__(self, visual: nn.Module, *, name: str, preprocess: Preprocessing) -> None:
        """`name` of the base model, for refusals. Raises `BaseModelUnfit` for another kind of tower."""
        super().__init__(visual, logit_scale=1.0, preprocess=preprocess)
        self._name = name

    @staticmethod
    def _fitting(visual: nn.Module) -> ResNet:
        if not isinstance(visual, ResNet):
            raise BaseModelUnfit(
                f"The image tower is a {type(visual).__name__}; without a text tower it may be a ResNet."
            )
        return visual

    @property
    def num_blocks(self) -> int:
        """Those with attention; the mean over the patches counts as one."""
        return 1

    def pool_by(self, pooling: Pooling | None) -> None:
        """Raises `ConfigInvalid` for `class_token`, of which it has none."""
        if pooling == "class_token":
            raise ConfigInvalid(
                "pooling is 'class_token', but this image tower takes the mean of its patches; leave it out.",
                param="pooling",
            )

    def check(self, config: FinetuneConfig) -> None:
        """Raises `BaseModelUnfit` for what reads texts, `ConfigInvalid` for what reads a transformer's blocks."""
        check_config(self._name, config)
        self.pool_by(config.pooling)
        if config.algorithm == "miro":
            raise ConfigInvalid("miro reads the blocks of a vision transformer; a ResNet has none.", param="algorithm")

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """The mean of the patches, fp32; of no unit length."""
        return self._patches(images).float().mean(dim=1)

    def at_own_size(self, features: Tensor) -> Tensor:
        return features

    @torch.no_grad()
    def forward_explained(
        self, images: Float[Tensor, "batch 3 height width"], config: FinetuneConfig
    ) -> ExplainedFeatures:
        """Even attention, and the same patches for both branches."""
        patches = self._patches(images).float()
        batch, num_patches, _ = patches.shape
        unit_patches = F.normalize(patches, dim=-1)
        return ExplainedFeatures(
            image_features=F.normalize(patches.mean(dim=1), dim=-1),
            cls_attention=patches.new_full((batch, 1, num_patches), 1 / num_patches),
            patch_features=unit_patches,
            dv_patch_features=unit_patches,
        )

    def _patches(self, images: Tensor) -> Tensor:
        """[batch, patches, dim]."""
        visual = self.visual
        maps = visual.maxpool(visual.act1(visual.bn1(visual.conv1(images))))
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                maps = checkpoint(stage, maps, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = stage(maps)
        return maps.flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


def build_image_encoder(folder: Path, name: str) -> PlainResNetEncoder:
    """The image tower of a folder. Raises `BaseModelUnfit` when it is damaged or no ResNet."""
    path = folder / IMAGE_ONLY_CONFIG_FILE
    try:
        config = json.loads(path.read_text())
        visual, preprocess = make_resnet(config), _preprocessing(config["pretrained_cfg"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BaseModelUnfit(
            f"{path} holds no configuration of a ResNet of timm's: {error!r}.", param="model"
        ) from error
    weights = read_weights(folder / IMAGE_ONLY_WEIGHTS_FILE, lambda name: not name.startswith(LAST_LAYER))
    encoder = PlainResNetEncoder(visual, name=name, preprocess=preprocess)
    fill(encoder.visual, weights, source=folder / IMAGE_ONLY_WEIGHTS_FILE)
    return encoder


def build_text_encoder(name: str, text_model: str) -> TextEncoder:
    """One that refuses every text: who asks for it may have no text to encode."""

    def refuse(texts: Sequence[str]) -> Tensor:
        raise without_texts(name, "it knows no words")

    tower = nn.Module()
    tower.token_embedding = nn.Embedding(1, 1)
    return TextEncoder(tower, refuse, text_model=text_model)


def is_resnet_name(architecture: str) -> bool:
    """Whether timm has a ResNet of that name, which torchvision may share."""
    return timm.is_model(architecture) and timm.models.model_entrypoint(architecture).__module__.endswith(".resnet")


def make_resnet(config: Mapping[str, Any]) -> nn.Module:
    """The architecture of a timm configuration without its last layer, on the device "meta"."""
    with torch.device("meta"):
        return timm.create_model(config["architecture"], num_classes=0, **config.get("model_args", {}))


def write_folder(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write the two files of such a model, its last layer left out.

    `config` as timm has it: "architecture", "pretrained_cfg" and, where it is not timm's own, "model_args".
    """
    num_features = {"num_features": make_resnet(config).num_features}
    (folder / IMAGE_ONLY_CONFIG_FILE).write_text(json.dumps({**config, **num_features}, indent=2))
    own = {name: value.clone().contiguous() for name, value in weights.items() if not name.startswith(LAST_LAYER)}
    save_file(own, folder / IMAGE_ONLY_WEIGHTS_FILE)
    (folder / IMAGE_ONLY_WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody but the owner read it


def _preprocessing(pretrained: Mapping[str, Any]) -> Preprocessing:
    """As the weights were trained, the whole short side of an image in sight."""
    return Preprocessing(
        image_size=(pretrained.get("test_input_size") or pretrained["input_size"])[-1],
        mean=tuple(pretrained["mean"]),
        std=tuple(pretrained["std"]),
        interpolation=pretrained["interpolation"],
    )
