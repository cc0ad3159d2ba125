"""WiSE-FT against the formula in plain numbers, and as a model that serves."""

import json
import math

import pytest
import torch
from torch.testing import assert_close

from alignclip_core.checkpoint import load_model, save_model
from alignclip_core.classifier import Classifier
from alignclip_core.encoder import build_image_encoder
from alignclip_core.errors import InterpolationInvalid
from alignclip_core.interpolation import interpolate_model
from alignclip_core.method.mixing import interpolate_weights


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_weights_are_the_mean_that_plain_numbers_give(alpha):
    generator = torch.Generator().manual_seed(3)
    base, tuned = ({"a": torch.randn(4, 3, generator=generator)} for _ in range(2))
    mixed = interpolate_weights(base, tuned, alpha)["a"]
    for row in range(4):
        for column in range(3):
            expected = (1 - alpha) * base["a"][row, column].item() + alpha * tuned["a"][row, column].item()
            assert mixed[row, column].item() == pytest.approx(expected, rel=1e-6)


def test_ends_are_the_two_models_bit_for_bit():
    base, tuned = {"a": torch.tensor([0.1, 1e-30, 3e38])}, {"a": torch.tensor([0.7, 1e30, -3e38])}
    assert torch.equal(interpolate_weights(base, tuned, 0.0)["a"], base["a"])
    assert torch.equal(interpolate_weights(base, tuned, 1.0)["a"], tuned["a"])


def test_counters_stay_the_tuned_models():
    mixed = interpolate_weights({"count": torch.tensor(2)}, {"count": torch.tensor(7)}, 0.5)
    assert mixed["count"].item() == 7


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan, math.inf])
def test_share_outside_of_zero_to_one_is_refused(alpha):
    with pytest.raises(InterpolationInvalid, match="between 0"):
        interpolate_weights({"a": torch.ones(1)}, {"a": torch.ones(1)}, alpha)


def test_weights_of_two_towers_are_refused():
    with pytest.raises(InterpolationInvalid, match="b on one side"):
        interpolate_weights({"a": torch.ones(1)}, {"a": torch.ones(1), "b": torch.ones(1)}, 0.5)


def test_mixture_serves_and_says_what_it_is(tuned_folder, tiny_base_model, tmp_path):
    manifest = interpolate_model(tuned_folder, tiny_base_model, 0.25, tmp_path / "mixed", source="ft:tiny:me")
    assert (manifest["interpolated_from"], manifest["alpha"]) == ("ft:tiny:me", 0.25)
    assert "result" not in manifest
    assert manifest["class_names"] == json.loads((tuned_folder / "manifest.json").read_text())["class_names"]
    base = build_image_encoder(tiny_base_model).state_dict()
    tuned, mixed = load_model(tuned_folder).weights, load_model(tmp_path / "mixed").weights
    for name, value in mixed.items():
        assert_close(value, 0.75 * base[name] + 0.25 * tuned[name])
    classifier = Classifier.load(tmp_path / "mixed", tiny_base_model)
    assert classifier.logit_scale == manifest["logit_scale"]


def test_mixture_of_a_mixture_is_refused(tuned_folder, tiny_base_model, tmp_path):
    interpolate_model(tuned_folder, tiny_base_model, 0.5, tmp_path / "mixed")
    with pytest.raises(InterpolationInvalid, match=r"itself a mixture \(alpha 0.5\) of 'model'"):
        interpolate_model(tmp_path / "mixed", tiny_base_model, 0.5, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_checkpoint_mixes_without_its_resume_state(tuned_folder, tiny_base_model, tmp_path):
    saved = load_model(tuned_folder)
    save_model(tmp_path / "step", saved.weights, saved.manifest | {"resume_sha256": "0"})
    manifest = interpolate_model(tmp_path / "step", tiny_base_model, 1.0, tmp_path / "mixed")
    assert "resume_sha256" not in manifest
    assert manifest["weights_sha256"] == saved.manifest["weights_sha256"]
