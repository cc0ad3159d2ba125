"""export, explain, interpolate and convert as a user types them: on folders, and on models of a running service."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from alignclip_core.base_models import CONFIG_FILE, WEIGHTS_FILE, find_base_model, read_card
from alignclip_core.checkpoint import make_manifest, save_model
from alignclip_core.config import make_config
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.prompts import class_similarity_of

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))
TINY = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with a base model `tiny` of random weights, its checkpoint, an image, and a finished model `tuned`."""
    home = tmp_path_factory.mktemp("home")
    base = home / "models" / "tiny"
    base.mkdir(parents=True)
    torch.manual_seed(0)
    weights = open_clip.model.CLIP(**TINY).state_dict()
    (base / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    save_file(weights, base / WEIGHTS_FILE)
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, home / "Their.pt")
    (home / "tiny.json").write_text(json.dumps(TINY))
    Image.new("RGB", (20, 20), "navy").save(home / "image.png")
    card = read_card(base, "tiny")
    config = make_config(card, class_names={"cat": "cat", "dog": "dog"})
    encoder = build_image_encoder(card)
    manifest = make_manifest(
        config,
        card,
        class_similarity_of(build_text_encoder(card), ["cat", "dog"], config.templates),
        preprocessing=encoder.preprocess,
        logit_scale=encoder.logit_scale,
        step=1,
    )
    tuned = {name: value + 0.05 * torch.randn_like(value) for name, value in encoder.state_dict().items()}
    save_model(home / "tuned", tuned, manifest)
    return home


@pytest.fixture
def run(home, serve_environment):
    """A function that runs `alignclip ...` in that home, with no service."""

    def run(*arguments):
        return subprocess.run(
            [ALIGNCLIP, *map(str, arguments)],
            env=serve_environment(home),
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )

    return run


def test_folder_is_exported(run, home, tmp_path):
    done = run("export", "tuned", "--format", "open_clip", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    assert model.visual.image_size == (16, 16)
    again = run("export", "tuned", "--output", tmp_path / "out")
    assert again.returncode == 1
    assert "not empty" in again.stderr


def test_mixture_of_a_folder_is_a_folder(run, home, tmp_path):
    assert "--output" in run("interpolate", "tuned", "--alpha", "0.5").stderr
    assert "less than or" in run("interpolate", "tuned", "--alpha", "1.5", "--output", tmp_path / "mixed").stderr
    done = run("interpolate", "tuned", "--alpha", "0.5", "--output", tmp_path / "mixed")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "mixed" / "manifest.json").read_text())
    assert (manifest["interpolated_from"], manifest["alpha"]) == ("tuned", 0.5)


def test_image_is_explained_before_and_after(run, tmp_path):
    done = run("explain", "tuned", "image.png", "--label", "a cat", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "overview.png") in done.stdout.replace("\n", "")
    arrays = np.load(tmp_path / "out" / "maps.npz")
    assert arrays["before_cls_attention"].shape == arrays["after_cls_attention"].shape == (2, 2)


def test_converted_checkpoint_is_a_base_model(run, home):
    done = run("convert", "Their.pt", "--architecture", "tiny.json", "--no-quick-gelu")
    assert done.returncode == 0, done.stderr
    card = find_base_model("their", home / "models")
    assert card.description.startswith("Converted from Their.pt (GELU")
    again = run("convert", "Their.pt", "--architecture", "tiny.json")
    assert again.returncode == 1
    assert "there already" in again.stderr


def test_id_is_exported_by_the_service(alignclip, serve, home, tmp_path):
    shutil.copytree(home / "models" / "tiny", serve.home / "models" / "tiny", dirs_exist_ok=True)
    done = alignclip("export", "tiny", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / WEIGHTS_FILE).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    refused = alignclip("export", "starter", "--format", "huggingface", "--output", tmp_path / "no")
    assert refused.returncode == 1
    assert "'onnx'" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_service_refuses_to_mix_a_base_model(alignclip, tmp_path):
    refused = alignclip("interpolate", "starter", "--alpha", "0.5")
    assert refused.returncode == 1
    assert "base model" in refused.stderr
    refused = alignclip("interpolate", "starter", "--alpha", "0.5", "--output", tmp_path / "x")
    assert "no folder 'starter'" in refused.stderr
