"""Base models small enough for tests: a random ViT in a folder of open_clip's layout, and the packaged starter."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from alignclip_core.base_models import CONFIG_FILE, STARTER_FOLDER, WEIGHTS_FILE, BaseModel, read_card

TINY_MODEL_CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_model_config() -> dict:
    """open_clip's model_cfg of `tiny_base_model`: 8 blocks, 3 heads, 16 patches, 32 numbers a feature."""
    return TINY_MODEL_CONFIG


@pytest.fixture(scope="session")
def tiny_base_model(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A local base model with random weights, for images of 32 pixels."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    torch.manual_seed(0)
    model = open_clip.model.CLIP(**TINY_MODEL_CONFIG, init_logit_scale=torch.tensor(20.0).log().item())
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY_MODEL_CONFIG, "preprocess_cfg": preprocess}))
    save_file(model.state_dict(), folder / WEIGHTS_FILE)
    return read_card(folder, "tiny")


@pytest.fixture(scope="session")
def starter_model() -> BaseModel:
    """The model that the package carries."""
    return read_card(Path(STARTER_FOLDER), "starter")
