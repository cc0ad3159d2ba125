"""Maps of what a model looks at: against slow references, and as files."""

import json
import math
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from torch.testing import assert_close

from alignclip_core.algorithms.cocoop import ConditionedContext
from alignclip_core.algorithms.learned_classes import LinearHead
from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, read_card
from alignclip_core.encoder import build_text_encoder
from alignclip_core.explain.explaining import explain
from alignclip_core.explain.maps import config_of, embed_label, make_maps, normalised
from alignclip_core.explain.pictures import overlay
from alignclip_core.finished_model import load_base_model, load_finished_model
from alignclip_core.pixels import normalise, prepare_image


@pytest.fixture(scope="module")
def tuned(tuned_folder, tiny_base_model):
    return load_finished_model(tuned_folder, tiny_base_model)


@pytest.fixture(scope="module")
def picture():
    image = Image.new("RGB", (40, 32), "white")
    ImageDraw.Draw(image).ellipse((6, 4, 24, 22), fill="navy")
    return image


@pytest.fixture(scope="module")
def text(tuned):
    return build_text_encoder(tuned.base_model).encode(["a drawing of a circle."])[0]


@torch.no_grad()
def test_attention_is_that_of_a_slow_reference(tuned, picture, text):
    """Every block's class row by open_clip's own layers in float64, head by head, patch by patch."""
    visual = tuned.image_encoder.visual
    pixels = normalise(prepare_image(picture, tuned.preprocessing)[None], tuned.preprocessing)
    tokens = visual._embeds(pixels)
    found = make_maps(tuned, picture, text).cls_attention_by_block
    for number, block in enumerate(visual.transformer.resblocks):
        normed = block.ln_1(tokens)[0].double()
        weight, bias = block.attn.in_proj_weight.double(), block.attn.in_proj_bias.double()
        query, key, _ = (normed @ weight.T + bias).chunk(3, dim=-1)
        expected = torch.zeros(16, dtype=torch.float64)
        for head in range(3):
            columns = slice(16 * head, 16 * head + 16)
            scores = [math.exp(query[0, columns] @ key[token, columns] / 4) for token in range(1, 17)]
            expected += torch.tensor(scores, dtype=torch.float64) / sum(scores) / 3
        np.testing.assert_allclose(found[number].ravel(), expected.numpy(), atol=1e-6)
        tokens = block(tokens)


@torch.no_grad()
def test_maps_are_what_the_losses_read(tuned, picture, text):
    config = config_of(tuned)
    pixels = normalise(prepare_image(picture, tuned.preprocessing)[None], tuned.preprocessing)
    aligned = tuned.image_encoder.forward_aligned(pixels, config)
    maps = make_maps(tuned, picture, text)
    np.testing.assert_allclose(maps.cls_attention.ravel(), aligned.log_cls_attention[0].exp(), atol=1e-6)
    np.testing.assert_allclose(maps.patch_similarity.ravel(), aligned.patch_features[0] @ text, atol=1e-5)
    np.testing.assert_allclose(maps.dv_patch_similarity.ravel(), aligned.dv_patch_features[0] @ text, atol=1e-5)
    assert maps.image_similarity == pytest.approx(float(tuned.image_encoder(pixels)[0] @ text), abs=1e-6)


def test_attention_is_a_distribution_in_every_block(tuned, picture, text):
    maps = make_maps(tuned, picture, text)
    assert maps.cls_attention_by_block.shape == (8, 4, 4)
    np.testing.assert_allclose(maps.cls_attention_by_block.sum(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(maps.cls_attention, maps.cls_attention_by_block[:4].mean(axis=0), atol=1e-6)


def test_branch_is_that_of_the_config(tuned, picture, text):
    config = tuned.manifest["config"]
    other = replace(tuned, manifest=tuned.manifest | {"config": config | {"dv_structure": "vvv"}})
    dv, vvv = make_maps(tuned, picture, text), make_maps(other, picture, text)
    assert np.abs(dv.dv_patch_similarity - vvv.dv_patch_similarity).max() > 1e-3
    np.testing.assert_array_equal(dv.patch_similarity, vvv.patch_similarity)


def test_maps_are_scaled_each_by_itself():
    values = np.array([[[1.0, 3.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, -1.0]], [[5.0, 5.0], [5.0, 5.0]]])
    assert normalised(values).tolist() == [[[0, 1], [0.5, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 0]]]


def test_overlay_is_warm_where_the_map_is_high():
    pixels = np.asarray(overlay(Image.new("RGB", (64, 64), "gray"), np.array([[0.0, 0.0], [0.0, 1.0]])), int)
    low, high = pixels[2, 2], pixels[61, 61]
    assert low[2] > low[0]
    assert high[0] > high[2]


def test_tuned_model_is_shown_before_and_after(tuned, picture, tmp_path, tiny_base_model, text):
    maps = explain(tuned, picture, "circle", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stages = ("before", "after")
    maps_of = ("cls_attention", "patch_similarity", "dv_patch_similarity")
    assert names == {
        "maps.npz", "explanation.json", "overview.png",
        *(f"{stage}_{name}.png" for stage in stages for name in maps_of),
        *(f"{stage}_cls_attention_block_{block:02d}.png" for stage in stages for block in range(8)),
    }  # fmt: skip
    arrays = np.load(tmp_path / "out" / "maps.npz")
    for name in maps_of:
        assert np.abs(arrays[f"before_{name}"] - arrays[f"after_{name}"]).max() > 0
        assert (arrays[f"after_{name}_normalised"].min(), arrays[f"after_{name}_normalised"].max()) == (0, 1)
        np.testing.assert_array_equal(arrays[f"after_{name}"], getattr(maps["after"], name))
    about = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert about["templates"] == ["a drawing of a {}.", "a {}."]
    assert about["image_similarity"]["after"] == maps["after"].image_similarity
    for name in names:
        if name.endswith(".png"):
            with Image.open(tmp_path / "out" / name) as shown:
                shown.load()


def test_tower_of_fewer_layers_than_the_config_averages_those_it_has(tiny_model_config, picture, text, tmp_path):
    config = tiny_model_config | {"vision_cfg": tiny_model_config["vision_cfg"] | {"layers": 2}}
    torch.manual_seed(2)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": config}))
    save_file(open_clip.model.CLIP(**config).state_dict(), tmp_path / WEIGHTS_FILE)
    maps = make_maps(load_base_model(read_card(tmp_path, "short")), picture, text)
    np.testing.assert_allclose(maps.cls_attention, maps.cls_attention_by_block.mean(axis=0), atol=1e-6)


def test_base_model_is_shown_as_it_is(starter_model, picture, tmp_path):
    maps = explain(load_base_model(starter_model), picture, "a circle", tmp_path / "out")
    assert list(maps) == ["before"]
    assert maps["before"].cls_attention_by_block.shape == (12, 7, 7)
    with Image.open(tmp_path / "out" / "before_cls_attention.png") as shown:
        assert shown.size == (224, 224)


def test_a_label_is_looked_for_by_what_was_learned(tuned, picture, text):
    texts = build_text_encoder(tuned.base_model)
    of_text = replace(tuned, templates=("a drawing of a {}.",))
    assert_close(embed_label(of_text, texts, picture, "circle"), text, atol=1e-5, rtol=0)
    row = torch.arange(32.0)
    head = LinearHead(torch.stack([row, -row]), ("circle", "cross"), tuned.logit_scale).requires_grad_(False)
    found = embed_label(replace(tuned, learned_classes=head), texts, picture, "circle")
    assert_close(found, row / row.norm(), atol=1e-6, rtol=0)
    by_image = ConditionedContext(torch.zeros(4, 32), 32).requires_grad_(False)
    by_image.up.weight.normal_(generator=torch.Generator().manual_seed(9))
    model = replace(tuned, learned_classes=by_image)
    pictures = (picture, Image.new("RGB", (40, 32), "black"))
    one, other = (embed_label(model, texts, each, "circle") for each in pictures)
    assert one.shape == (32,)
    assert (one - other).abs().max() > 1e-3
