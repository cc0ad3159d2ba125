import errno
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from alignclip_core.checkpoint import (
    load_checkpoint,
    load_model,
    make_manifest,
    preprocessing_of,
    save_checkpoint,
    save_model,
    sweep_parts,
)
from alignclip_core.config import make_config
from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.images import Preprocessing
from alignclip_core.run_dir import ClassSimilarity

WEIGHTS = {"visual.proj": torch.arange(12.0).view(3, 4).T, "visual.steps": torch.tensor(7)}
PREPROCESSING = Preprocessing(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize_mode="squash")


@pytest.fixture
def manifest(tiny_base_model):
    config = make_config(tiny_base_model, class_names={"cat": "a cat", "dog": "dog"})
    similarity = ClassSimilarity(
        class_names=("a cat", "dog"),
        templates=config.templates,
        text_model="tiny",
        class_embeddings=np.eye(2, dtype=np.float32),
        cosine=np.eye(2, dtype=np.float32),
    )
    return make_manifest(
        config, tiny_base_model, similarity, preprocessing=PREPROCESSING, logit_scale=20.0, step=3, result={"x": 1}
    )


def test_weights_and_manifest_come_back_as_they_were_saved(tmp_path, manifest):
    save_model(tmp_path / "model", WEIGHTS, manifest)
    saved = load_model(tmp_path / "model")
    assert saved.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(saved.weights[name], value) for name, value in WEIGHTS.items())
    assert {name: saved.manifest[name] for name in manifest} == manifest
    assert preprocessing_of(saved.manifest) == PREPROCESSING
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_manifest_says_what_serving_needs(manifest):
    assert manifest["class_names"] == {"cat": "a cat", "dog": "dog"}
    assert manifest["base_model"] == "tiny"
    assert manifest["config"]["num_steps"] == 5000
    assert manifest["versions"]["torch"].startswith("2.")
    assert len(manifest["similarity_sha256"]) == 64
    json.dumps(manifest)


def test_a_checkpoint_is_a_model_with_a_resume_state(tmp_path, manifest):
    state = {"step": 3, "values": {"a": torch.tensor([0.1])}, "nothing": None, "names": ["x"], "zero_shot": {"a": 0.5}}
    save_checkpoint(tmp_path / "step-000003", WEIGHTS, manifest, state)
    saved, loaded = load_checkpoint(tmp_path / "step-000003")
    assert torch.equal(loaded["values"]["a"], state["values"]["a"])
    assert loaded["zero_shot"] == {"a": 0.5}
    assert load_model(tmp_path / "step-000003").manifest == saved.manifest


def test_a_finished_model_is_no_checkpoint(tmp_path, manifest):
    save_model(tmp_path / "model", WEIGHTS, manifest)
    with pytest.raises(ArtifactCorrupt, match="not a checkpoint"):
        load_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("file", ["weights.safetensors", "resume/state.pt"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_files_are_found_and_named(tmp_path, manifest, file, damage):
    folder = tmp_path / "step-000003"
    save_checkpoint(folder, WEIGHTS, manifest, {"step": 3})
    path = folder / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if damage != "remove":
        path.write_bytes(content if damage == "flip" else content[:-5])
    with pytest.raises(ArtifactCorrupt, match=file.rsplit("/", 1)[-1]):
        load_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "{", json.dumps({"format_version": 99})])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, manifest, content):
    save_model(tmp_path / "model", WEIGHTS, manifest)
    (tmp_path / "model" / "manifest.json").write_text(content)
    with pytest.raises(ArtifactCorrupt, match="manifest"):
        load_model(tmp_path / "model")


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactCorrupt, match=r"manifest\.json"):
        load_model(tmp_path / "nowhere")


def test_saving_again_replaces_the_folder_of_that_name(tmp_path, manifest):
    save_checkpoint(tmp_path / "step-000003", WEIGHTS, manifest, {"step": 3})
    save_model(tmp_path / "step-000003", {"visual.proj": torch.ones(1)}, manifest)
    assert load_model(tmp_path / "step-000003").weights.keys() == {"visual.proj"}
    assert not (tmp_path / "step-000003" / "resume").exists()


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path, manifest):
    with pytest.raises(TypeError):
        save_model(tmp_path / "model", WEIGHTS, manifest | {"result": object()})
    assert list(tmp_path.iterdir()) == []


def test_parts_of_killed_trainers_are_swept_and_nothing_else(tmp_path, manifest):
    save_model(tmp_path / "model", WEIGHTS, manifest)
    (tmp_path / ".step-000004.77.part").mkdir()
    (tmp_path / ".step-000004.77.part" / "weights.safetensors").touch()
    (tmp_path / ".config.json.77.part").touch()
    (tmp_path / ".keep").touch()
    sweep_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "model"]


@contextmanager
def small_disk():
    """Files of 20 kB at most: the nearest thing to a full disk that needs no privilege.

    Only around the call under test: the limit would also cut off a test report that goes to a file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("too_large", ["weights", "state"])
def test_a_file_that_the_disk_does_not_take_is_an_error_of_the_system(tmp_path, manifest, too_large):
    large, small = torch.zeros(100_000), torch.zeros(1)
    weights, state = (large, small) if too_large == "weights" else (small, large)
    with pytest.raises(OSError, match="File too large") as caught, small_disk():
        save_checkpoint(tmp_path / "step-000001", {"w": weights}, manifest, {"s": state})
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_the_disk_has_every_file_before_the_folder_has_its_name(tmp_path, manifest, monkeypatch):
    """A loss of power must not leave a name with nothing behind it; what is asked of the system is written down."""
    asked = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (asked.append(os.fstat(file).st_ino), fsync(file))[1])
    monkeypatch.setattr(Path, "rename", lambda path, target: (asked.append("rename"), rename(path, target))[1])
    folder = tmp_path / "step-000002"
    save_checkpoint(folder, WEIGHTS, manifest, {"step": 2})
    before, after = asked[: asked.index("rename")], asked[asked.index("rename") :]
    assert {path.stat().st_ino for path in [folder, *folder.rglob("*")]} <= set(before)
    assert tmp_path.stat().st_ino in after
