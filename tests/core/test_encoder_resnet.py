"""CLIP's ResNets: open_clip's features, and beside them what a plain computation of the attention pool gives."""

import json
import shutil
import threading
from dataclasses import replace

import open_clip
import pytest
import torch
from open_clip.model import _build_vision_tower
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from torch.testing import assert_close

from alignclip_core.base_models import CONFIG_FILE, RESNET_PRESETS, WEIGHTS_FILE, BaseModel, read_card
from alignclip_core.checkpoint import load_model
from alignclip_core.classifier import Classifier
from alignclip_core.config import FinetuneConfig, make_config
from alignclip_core.encoder import Preprocessing, build_image_encoder
from alignclip_core.encoder.resnet import ResNetEncoder
from alignclip_core.errors import BaseModelUnfit, ConfigInvalid
from alignclip_core.method.losses import total_loss
from alignclip_core.run_dir import ClassSimilarity, RunDir
from alignclip_core.train import train

TINY = {"image_size": 96, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None}  # 9 patches, 4 heads
CONFIG = FinetuneConfig(base_model="rn", class_names={"cat": "cat", "dog": "dog"}, num_aligned_layers=1)


def random_tower(vision_config, embed_dim=32):
    """A tower in which no weight and no statistic is special: fresh ones would hide a mix-up."""
    torch.manual_seed(7)
    tower = _build_vision_tower(embed_dim, vision_config, True)
    with torch.no_grad():
        for name, value in tower.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.is_floating_point():
                value.add_(0.05 * torch.randn_like(value))
    return tower.eval()


def encoder_of(tower):
    preprocess = Preprocessing(image_size=96, mean=(0.5,) * 3, std=(0.5,) * 3)
    return ResNetEncoder(tower, logit_scale=20.0, preprocess=preprocess)


def random_images(size=96):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(8))


@pytest.fixture
def encoder():
    return encoder_of(random_tower(TINY))


@pytest.mark.parametrize(("name", "size"), [("RN50-quickgelu", 224), (None, 96)])
@torch.no_grad()
def test_features_equal_open_clips(name, size):
    model_config = open_clip.get_model_config(name) if name else {"vision_cfg": TINY, "embed_dim": 32}
    tower = random_tower(model_config["vision_cfg"], model_config["embed_dim"])
    images = random_images(size)
    encoder, expected = encoder_of(tower), normalize(tower(images), dim=-1)
    assert_close(encoder(images), expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_aligned(images, CONFIG).image_features, expected, atol=1e-5, rtol=0)
    assert_close(encoder.forward_explained(images, CONFIG).image_features, expected, atol=1e-5, rtol=0)


def naive_pool(encoder, images):
    """Query, key and value [tokens, heads, head_dim] of each image, in double precision."""
    visual = encoder.visual.double()
    maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images.double())))))
    for image in maps:
        patches = image.reshape(len(image), -1).T
        tokens = torch.cat([patches.mean(dim=0)[None], patches]) + visual.attnpool.positional_embedding
        yield tuple(
            getattr(visual.attnpool, f"{letter}_proj")(tokens).reshape(len(tokens), visual.attnpool.num_heads, -1)
            for letter in "qkv"
        )


@torch.no_grad()
def test_attention_and_both_branches_equal_a_naive_pool(encoder):
    images = random_images()
    found = encoder.forward_aligned(images, CONFIG)
    explained = encoder.forward_explained(images, CONFIG)
    c_proj = encoder.visual.attnpool.c_proj
    for index, (query, key, value) in enumerate(naive_pool(encoder, images)):
        scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
        over_patches = scores[:, 0, 1:].softmax(-1).mean(dim=0)
        outputs = c_proj(torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).flatten(1))
        assert_close(found.log_cls_attention[index].exp(), over_patches.float(), atol=1e-6, rtol=1e-4)
        assert_close(explained.cls_attention[index, 0], over_patches.float(), atol=1e-6, rtol=1e-4)
        patches = normalize(outputs[1:], dim=-1).float()
        assert_close(found.patch_features[index], patches, atol=1e-5, rtol=0)
        dv_patches = normalize(c_proj(value[1:].flatten(1)), dim=-1).float()
        assert_close(found.dv_patch_features[index], dv_patches, atol=1e-5, rtol=0)
        assert_close(explained.dv_patch_features[index], dv_patches, atol=1e-5, rtol=0)


@torch.no_grad()
def test_other_structures_attend_with_what_stands_in_the_places(encoder):
    images = random_images()
    found = encoder.forward_aligned(images, replace(CONFIG, dv_structure="kkv")).dv_patch_features
    for index, (_, key, value) in enumerate(naive_pool(encoder, images)):
        weights = (torch.einsum("qhd,khd->hqk", key, key) / key.shape[-1] ** 0.5).softmax(-1)
        outputs = encoder.visual.attnpool.c_proj(torch.einsum("hqk,khd->qhd", weights, value).flatten(1))
        assert_close(found[index], normalize(outputs[1:], dim=-1).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_reaches_the_whole_tower_and_no_statistic_moves(encoder, checkpointing):
    encoder.gradient_checkpointing = checkpointing
    encoder.train()
    statistics = {name: value.clone() for name, value in encoder.named_buffers()}
    aligned = encoder.forward_aligned(random_images(), CONFIG)
    texts = normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(9)), dim=-1)
    losses = total_loss(
        **aligned._asdict(), class_embeddings=texts, targets=torch.eye(2), labels=torch.arange(2),
        logit_scale=20.0, config=CONFIG,
    )  # fmt: skip
    losses.total.backward()
    assert losses.layer_alignment.item() > 0
    assert losses.similarity_alignment.item() > 0
    assert [name for name, value in encoder.named_parameters() if value.grad is None] == []
    assert not aligned.dv_patch_features.requires_grad
    assert all(torch.equal(value, statistics[name]) for name, value in encoder.named_buffers())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_aligned_layers": 4}, "num_aligned_layers is 4; the image tower has 1 blocks"),
        ({"dv_start_block": 1}, "dv_start_block is 1; the image tower has blocks 0 to 0"),
        ({"dv_mlp": True}, "attention pool has no MLP"),
    ],
)
def test_what_an_attention_pool_does_not_have_is_refused(encoder, changes, message):
    with pytest.raises(ConfigInvalid, match=message) as caught:
        encoder.forward_aligned(random_images(), replace(CONFIG, **changes))
    assert caught.value.param == next(iter(changes))


def test_pooling_by_average_and_other_towers_are_refused(encoder):
    encoder.pool_by(None)
    encoder.pool_by("class_token")
    with pytest.raises(ConfigInvalid, match="pools by attention"):
        encoder.pool_by("average")
    with pytest.raises(BaseModelUnfit, match="VisionTransformer"):
        encoder_of(_build_vision_tower(32, {"image_size": 32, "patch_size": 8, "width": 64, "layers": 1}, True))


@pytest.fixture
def tiny_resnet(tiny_model_config, tmp_path) -> BaseModel:
    """A base model's folder with a ResNet of random weights."""
    folder = tmp_path / "resnet"
    folder.mkdir()
    config = tiny_model_config | {"vision_cfg": TINY}
    torch.manual_seed(1)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    save_file(open_clip.model.CLIP(**config).state_dict(), folder / WEIGHTS_FILE)
    return read_card(folder, "resnet")


def test_a_folder_with_a_resnet_is_one_layer_aligned_by_default(tiny_resnet):
    assert tiny_resnet.presets == RESNET_PRESETS
    names = {"cat": "cat", "dog": "dog"}
    configs = [make_config(tiny_resnet, class_names=names, preset=preset) for preset in tiny_resnet.presets]
    assert {config.num_aligned_layers for config in configs} == {1}
    model = open_clip.model.CLIP(**json.loads((tiny_resnet.folder / CONFIG_FILE).read_text())["model_cfg"]).eval()
    model.load_state_dict(load_file(tiny_resnet.folder / WEIGHTS_FILE))
    encoder = build_image_encoder(tiny_resnet)
    with torch.no_grad():
        expected = model.encode_image(random_images(), normalize=True)
        assert_close(encoder(random_images()), expected, atol=1e-5, rtol=0)
    assert "visual.attnpool.q_proj.weight" in encoder.train_all_but(("conv1", "layer1"))
    assert not encoder.visual.layer1[0].conv1.weight.requires_grad


def test_a_resnet_trains_goes_on_exactly_and_serves(tiny_resnet, draw_dataset, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    draw_dataset(run_dir.dataset)
    names = {name: name for name in ("circle", "cross", "square", "triangle")}
    given = {"num_steps": 3, "global_batch_size": 4, "checkpoint_every_steps": 1, "precision": "bf16"}
    run_dir.write_config(make_config(tiny_resnet, class_names=names, given=given))
    models_dir, stop = tiny_resnet.folder.parent, threading.Event()
    train(run_dir, models_dir=models_dir, stop=stop)
    whole = load_model(run_dir.model).weights

    shutil.rmtree(run_dir.model)
    (step, _), *later = run_dir.list_checkpoints()
    assert step < 3
    for _, folder in later:
        shutil.rmtree(folder)
    train(run_dir, models_dir=models_dir, stop=stop)
    again = load_model(run_dir.model).weights
    assert [name for name, value in whole.items() if not torch.equal(again[name], value)] == []

    base = load_file(tiny_resnet.folder / WEIGHTS_FILE)
    assert not torch.equal(again["visual.attnpool.q_proj.weight"], base["visual.attnpool.q_proj.weight"])
    texts = torch.from_numpy(ClassSimilarity.load(run_dir.similarity_file).class_embeddings)
    picture = Image.open(run_dir.dataset / "circle" / "0.png")
    assert Classifier.load(run_dir.model, tiny_resnet).classify([picture], texts).sum().item() == pytest.approx(1)
