"""Whether a config fits a tower, and what its training is about, by names and shapes alone."""

import copy
import math

import open_clip
import pytest
import torch

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import build_text_encoder, check_fits
from alignclip_core.encoder.image_tower import ImageEncoder
from alignclip_core.encoder.resnet import ResNetEncoder
from alignclip_core.encoder.trained import TrainedTower
from alignclip_core.errors import ConfigInvalid
from alignclip_core.images import Preprocessing

VIT = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


def config(**fields):
    names = {"a": "a", "b": "b"}
    return FinetuneConfig(base_model="tiny", class_names=names, **({"num_aligned_layers": 1} | fields))


def encoder_of(vision, kind):
    visual = open_clip.model._build_vision_tower(16, open_clip.model.CLIPVisionCfg(**vision))
    size = vision["image_size"]
    return kind(visual, logit_scale=10.0, preprocess=Preprocessing(image_size=size, mean=(0.5,) * 3, std=(0.5,) * 3))


@pytest.fixture(scope="module")
def vit():
    return encoder_of(VIT, ImageEncoder)


@pytest.fixture(scope="module")
def resnet():
    return encoder_of(RESNET, ResNetEncoder)


@pytest.mark.parametrize("trainable", ["all", "last_k_blocks", "attention", "query_key", "lora"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_sizes_are_those_of_the_tower_that_is_trained(vit, trainable, device):
    asked = config(trainable=trainable, trainable_blocks=2)
    size = check_fits(copy.deepcopy(vit).to(device), asked)
    trained = TrainedTower(copy.deepcopy(vit), asked)
    assert size.num_parameters == sum(value.numel() for value in vit.state_dict().values())
    assert size.num_trained == sum(value.numel() for value in trained.parameters.values())
    assert size.num_changed == sum(value.numel() for value in trained.weights().values())
    assert size.is_computed == (trainable in ("query_key", "lora"))
    assert all(value.device.type == "cpu" and value.requires_grad for value in vit.parameters()), "left as it was"


def test_checkpointing_and_frozen_blocks_keep_fewer_activations(vit, resnet):
    for encoder in (vit, resnet):
        whole = check_fits(encoder, config()).num_activations
        assert check_fits(encoder, config(gradient_checkpointing=True)).num_activations < 1.1 * whole
    last = check_fits(vit, config(trainable="last_k_blocks", trainable_blocks=1)).num_activations
    assert math.isclose(3 * last, check_fits(vit, config()).num_activations)


def test_towers_beside_the_trained_one_are_counted(vit, tiny_base_model):
    whole = check_fits(vit, config(algorithm="finetune"))
    assert (whole.num_frozen, whole.num_prompt_activations) == (0, 0)
    for with_copy in (config(algorithm="miro"), config(frozen_distance_weight=1.0)):
        assert check_fits(vit, with_copy).num_frozen == whole.num_parameters
    texts = build_text_encoder(tiny_base_model)
    size = check_fits(vit, config(algorithm="coop", trainable="none"), texts)
    states = torch.nn.Module.state_dict(texts._tower)
    assert size.num_frozen == sum(value.numel() for value in states.values())
    # two prompts of 77 tokens through two blocks of 32 channels and two heads
    assert size.num_prompt_activations == 2 * 2 * (17 * 77 * 32 + 2.5 * 2 * 77**2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_aligned_layers": 4}, "num_aligned_layers"),
        ({"dv_start_block": 3}, "dv_start_block"),
        ({"trainable": "last_k_blocks", "trainable_blocks": 4}, "trainable_blocks"),
        ({"frozen_modules": ("conv9",)}, "frozen_modules"),
        ({"frozen_modules": ("transformer",), "trainable": "attention"}, "trainable"),
    ],
)
def test_what_a_transformer_does_not_have_is_named(vit, fields, param):
    with pytest.raises(ConfigInvalid) as caught:
        check_fits(vit.to("cpu"), config(**fields))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dv_mlp": True}, "dv_mlp"),
        ({"pooling": "average"}, "pooling"),
        ({"num_aligned_layers": 2}, "num_aligned_layers"),
        ({"trainable": "last_k_blocks", "trainable_blocks": 2}, "trainable_blocks"),
        ({"trainable": "lora"}, "trainable"),
    ],
)
def test_what_a_resnet_does_not_have_is_named(resnet, fields, param):
    with pytest.raises(ConfigInvalid) as caught:
        check_fits(resnet, config(**fields))
    assert caught.value.param == param


def test_what_no_loss_reads_is_not_asked_of_the_tower(resnet):
    plain = {"layer_alignment_weight": 0.0, "similarity_alignment_weight": 0.0}
    check_fits(resnet, config(num_aligned_layers=4, dv_mlp=True, **plain))
    assert not any(value.is_meta for value in resnet.parameters())
    assert torch.isfinite(next(resnet.parameters())).all()
