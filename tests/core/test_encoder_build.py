"""Towers from a base model's folder: open_clip's numbers, either tower alone, clear words for an unfit folder."""

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from torch.testing import assert_close
from transformers import AutoModel, AutoTokenizer

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, BaseModel
from alignclip_core.encoder import build_image_encoder, build_model, build_text_encoder, starter
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnfit

TEXTS = ["a photo of a dog.", "a photo of a very small and very old red car behind a house.", "x"]


@pytest.fixture
def copied_model(tiny_base_model: BaseModel, tmp_path: Path) -> BaseModel:
    """A copy of the tiny model to be damaged."""
    return replace(tiny_base_model, folder=shutil.copytree(tiny_base_model.folder, tmp_path / "copy"))


def open_clip_model(base_model: BaseModel) -> torch.nn.Module:
    """The same folder, loaded by open_clip itself."""
    return open_clip.create_model(f"local-dir:{base_model.folder}").eval()


@torch.no_grad()
def test_both_towers_give_open_clips_logits(tiny_base_model):
    model, reference = build_model(tiny_base_model), open_clip_model(tiny_base_model)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(10))
    expected, _ = reference.get_logits(images, open_clip.tokenize(TEXTS))
    image_features, text_features = model.image_encoder(images), model.text_encoder.encode(TEXTS)
    assert_close(model.image_encoder.logit_scale * image_features @ text_features.T, expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_quick_gelu_of_the_configuration_is_heeded(copied_model):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(10))
    config_file = copied_model.folder / CONFIG_FILE
    with_quick_gelu = build_image_encoder(copied_model)(images)
    content = json.loads(config_file.read_text())
    content["model_cfg"]["quick_gelu"] = False
    config_file.write_text(json.dumps(content))
    assert (build_image_encoder(copied_model)(images) - with_quick_gelu).abs().max() > 1e-4


def test_state_dict_has_open_clips_own_names_and_values(tiny_base_model):
    state = build_image_encoder(tiny_base_model).state_dict()
    file = load_file(tiny_base_model.folder / WEIGHTS_FILE)
    assert state.keys() == {name for name in file if name.startswith("visual.")}
    assert all(torch.equal(state[name], file[name]) for name in state)


def test_preprocessing_comes_from_the_configuration(tiny_base_model, starter_model):
    tiny = build_image_encoder(tiny_base_model).preprocess
    assert (tiny.image_size, tiny.mean, tiny.std) == (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (tiny.interpolation, tiny.resize_mode) == ("bilinear", "shortest")
    packaged = build_image_encoder(starter_model).preprocess
    assert packaged.image_size == 224
    assert (255 * packaged.mean[0], 255 * packaged.std[0]) == pytest.approx((127, 128))


def test_building_leaves_torchs_random_numbers_alone(tiny_base_model, starter_model):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for base_model in (tiny_base_model, starter_model):
        build_model(base_model)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_files_become_fp32_weights(copied_model):
    path = copied_model.folder / WEIGHTS_FILE
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    assert {value.dtype for value in build_image_encoder(copied_model).state_dict().values()} == {torch.float32}
    assert build_text_encoder(copied_model).encode(["a dog"]).dtype == torch.float32


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_each_tower_is_built_without_the_others_weights(copied_model, tower):
    path = copied_model.folder / WEIGHTS_FILE
    is_wanted = {"visual": lambda name: name.startswith("visual."), "text": lambda name: not name.startswith("visual.")}
    scale = {"logit_scale": torch.tensor(1.0)}
    save_file({name: value for name, value in load_file(path).items() if is_wanted[tower](name)} | scale, path)
    build, other = (build_image_encoder, build_text_encoder)[:: 1 if tower == "visual" else -1]
    build(copied_model)
    with pytest.raises(BaseModelUnfit, match="does not fit its configuration"):
        other(copied_model)


def test_models_without_files_say_how_to_fetch_them(tiny_base_model, copied_model):
    for build in (build_image_encoder, build_text_encoder):
        with pytest.raises(BaseModelNotLocal, match="alignclip models pull tiny"):
            build(replace(tiny_base_model, folder=None))
    (copied_model.folder / CONFIG_FILE).unlink()
    with pytest.raises(BaseModelNotLocal, match=CONFIG_FILE):
        build_image_encoder(copied_model)


def test_damaged_folders_are_named_unfit(copied_model):
    weights, config = copied_model.folder / WEIGHTS_FILE, copied_model.folder / CONFIG_FILE
    tensors = load_file(weights)

    save_file({name: value for name, value in tensors.items() if name != "visual.proj"}, weights)
    with pytest.raises(BaseModelUnfit, match=r"Missing key.*proj"):
        build_image_encoder(copied_model)
    save_file({name: value for name, value in tensors.items() if name != "logit_scale"}, weights)
    with pytest.raises(BaseModelUnfit, match="logit_scale"):
        build_image_encoder(copied_model)
    weights.write_bytes(b"no tensors")
    with pytest.raises(BaseModelUnfit, match="safetensors"):
        build_image_encoder(copied_model)
    for content, fault in (
        ('{"architecture": "vit_base"}', "model_cfg"),
        ('{"model_cfg": {"vision_cfg": {"depth": 2}}}', "depth"),
        ("no json", "JSON"),
    ):
        config.write_text(content)
        with pytest.raises(BaseModelUnfit, match=fault):
            build_image_encoder(copied_model)


def test_unfit_towers_are_refused_from_their_configuration(copied_model):
    config = copied_model.folder / CONFIG_FILE
    content = json.loads(config.read_text())
    content["model_cfg"]["vision_cfg"]["image_size"] = [32, 48]
    config.write_text(json.dumps(content))
    with pytest.raises(BaseModelUnfit, match="square"):
        build_image_encoder(copied_model)


# The starter's text tower


@pytest.fixture(scope="module")
def starter_text(starter_model: BaseModel):
    return build_text_encoder(starter_model)


def test_starters_text_tower_knows_what_words_mean(starter_text):
    dog, puppy, car = starter_text.encode(["dog", "puppy", "car"])
    assert (dog @ puppy).item() == pytest.approx(0.804, abs=2e-3)
    assert (dog @ car).item() == pytest.approx(0.476, abs=2e-3)


@torch.no_grad()
def test_starters_text_features_equal_the_mean_pooled_hugging_face_model(starter_text):
    folder = starter._text_folder()
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    hidden = AutoModel.from_pretrained(folder)(**tokens).last_hidden_state
    pooled = torch.stack(
        [states[mask.bool()].mean(0) for states, mask in zip(hidden, tokens.attention_mask, strict=True)]
    )
    assert_close(starter_text.encode(TEXTS), normalize(pooled, dim=-1), atol=1e-5, rtol=0)


def test_features_of_a_text_do_not_depend_on_its_company(starter_text):
    texts = [f"a photo of a {number}." for number in range(70)] + TEXTS  # more than one batch
    together = starter_text.encode(texts)
    assert_close(together[-3:], starter_text.encode(TEXTS), atol=1e-5, rtol=0)
    assert_close(together.norm(dim=1), torch.ones(len(texts)))


def test_text_features_carry_no_gradient(starter_text, tiny_base_model):
    assert not starter_text.encode(["a dog"]).requires_grad
    assert not build_text_encoder(tiny_base_model).encode(["a dog"]).requires_grad


def test_starter_needs_no_network(starter_model, monkeypatch):
    def refuse(*arguments):
        raise AssertionError(f"a connection was tried: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    build_model(starter_model).text_encoder.encode(["a dog"])


def test_missing_text_package_says_what_to_run(starter_model, monkeypatch):
    monkeypatch.setattr(starter, "TEXT_PACKAGE", "no_such_package")
    with pytest.raises(BaseModelNotLocal, match="make setup"):
        build_text_encoder(starter_model)
