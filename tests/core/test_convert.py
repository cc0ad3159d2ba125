"""Foreign checkpoints: the same logits come out, and nothing of the file is run."""

import argparse
import json
import os

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch.testing import assert_close

from alignclip_core.base_models import find_base_model
from alignclip_core.conversion import convert_checkpoint
from alignclip_core.encoder import build_model
from alignclip_core.errors import BaseModelUnfit, ConversionRefused, ExportUnfit
from alignclip_core.export.fitness import check_fits

TEXTS = ["a photo of a dog", "a dog"]


@pytest.fixture(scope="module")
def architecture(tiny_model_config, tmp_path_factory):
    """A file with open_clip's configuration of the tiny model, whose own activation is GELU."""
    file = tmp_path_factory.mktemp("configs") / "tiny.json"
    file.write_text(json.dumps(tiny_model_config | {"quick_gelu": False}))
    return str(file)


@pytest.fixture(scope="module")
def clip(tiny_model_config):
    torch.manual_seed(4)
    return open_clip.model.CLIP(**tiny_model_config).eval()


def declip(weights):
    """DeCLIP's names: DDP's prefix, and the text tower in a module of its own."""
    own = ("visual.", "logit_scale")
    return {f"module.{name if name.startswith(own) else f'encode_text.{name}'}": v for name, v in weights.items()}


WRAPPINGS = {
    "plain": lambda weights: weights,
    "ddp": lambda weights: {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1),
        "state_dict": {f"module.{name}": value for name, value in weights.items()},
    },
    "compiled": lambda weights: {"model": {f"module._orig_mod.{name}": value for name, value in weights.items()}},
    "openai": lambda weights: weights | {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)},
    "declip": lambda weights: {"model": declip(weights)},
    "custom text": lambda weights: {
        name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": v for name, v in weights.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@torch.no_grad()
def test_converted_model_gives_the_same_logits(clip, architecture, tmp_path, wrapping):
    torch.save(WRAPPINGS[wrapping](clip.state_dict()), tmp_path / "their.pt")
    folder = convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "models" / "theirs", quick_gelu=True)
    card = find_base_model("theirs", tmp_path / "models")
    model = build_model(card)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    logits = model.image_encoder.logit_scale * model.image_encoder(images) @ model.text_encoder.encode(TEXTS).T
    assert_close(logits, clip.get_logits(images, open_clip.tokenize(TEXTS))[0], atol=1e-4, rtol=0)
    assert json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["quick_gelu"] is True
    assert "QuickGELU" in card.description
    assert [path.name for path in folder.parent.iterdir()] == ["theirs"]


def test_activation_is_the_architectures_unless_it_is_named(clip, architecture, tmp_path):
    torch.save(clip.state_dict(), tmp_path / "their.pt")
    folder = convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs", normalisation="imagenet")
    content = json.loads((folder / "open_clip_config.json").read_text())
    assert content["model_cfg"]["quick_gelu"] is False
    assert content["preprocess_cfg"]["mean"] == [0.485, 0.456, 0.406]


class Slip(torch.nn.Module):
    """What SLIP's models.CLIP is: timm's ViT and CLIP's text tower, with a head of self-supervision beside them."""

    def __init__(self, config):
        super().__init__()
        vision = config["vision_cfg"]
        self.visual = VisionTransformer(
            img_size=vision["image_size"],
            patch_size=vision["patch_size"],
            embed_dim=vision["width"],
            depth=vision["layers"],
            num_heads=vision["width"] // vision["head_width"],
            num_classes=0,
        )
        text = open_clip.model.CLIP(**config | {"quick_gelu": True})
        self.transformer, self.token_embedding, self.ln_final = text.transformer, text.token_embedding, text.ln_final
        self.positional_embedding, self.text_projection = text.positional_embedding, text.text_projection
        self.image_projection = torch.nn.Parameter(torch.randn(vision["width"], config["embed_dim"]) / 7)
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0))
        self.image_mlp = torch.nn.Linear(vision["width"], 8)
        self.text = [text.encode_text]  # in a list: no module of its own

    def logits(self, images, tokens):
        image = torch.nn.functional.normalize(self.visual(images) @ self.image_projection, dim=-1)
        return self.logit_scale.exp() * image @ self.text[0](tokens, normalize=True).T


@torch.no_grad()
def test_a_file_of_slip_gives_the_same_logits(tiny_model_config, architecture, tmp_path):
    torch.manual_seed(6)
    slip = Slip(tiny_model_config).eval()
    for parameter in slip.visual.parameters():  # timm's biases begin at zero
        parameter.add_(0.02 * torch.randn_like(parameter))
    weights = {f"module.{name}": value for name, value in slip.state_dict().items()}
    torch.save({"epoch": 25, "state_dict": weights}, tmp_path / "slip.pt")
    folder = convert_checkpoint(
        tmp_path / "slip.pt", architecture, tmp_path / "models" / "slip", normalisation="imagenet"
    )
    card = find_base_model("slip", tmp_path / "models")
    model = build_model(card)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    logits = model.image_encoder.logit_scale * model.image_encoder(images) @ model.text_encoder.encode(TEXTS).T
    assert_close(logits, slip.logits(images, open_clip.tokenize(TEXTS)), atol=1e-4, rtol=0)
    assert "GELU, QuickGELU in the text tower" in card.description
    assert folder.name == "slip"
    with pytest.raises(ExportUnfit, match="different activations"):
        check_fits(card, "open_clip")


def test_safetensors_are_read_too(clip, architecture, tmp_path):
    save_file(clip.state_dict(), tmp_path / "their.safetensors")
    assert convert_checkpoint(tmp_path / "their.safetensors", architecture, tmp_path / "theirs").is_dir()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_file_that_needs_code_is_refused_and_its_code_is_not_run(clip, architecture, tmp_path):
    torch.save({"state_dict": clip.state_dict(), "hook": Evil(str(tmp_path / "ran"))}, tmp_path / "their.pt")
    with pytest.raises(ConversionRefused, match=r"tensors alone.*save its state dict alone"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["their.pt"]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_program_is_refused(architecture, tmp_path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    torch.jit.save(module, tmp_path / "their.pt")
    with pytest.raises(ConversionRefused, match="TorchScript archive"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_file_that_is_no_checkpoint_is_refused(architecture, tmp_path, content):
    (tmp_path / "their.pt").write_bytes(content)
    with pytest.raises(ConversionRefused, match=r"their\.pt cannot be read"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda weights: weights.pop("visual.proj"), r"It lacks visual\.proj"),
        (lambda weights: weights.update({"visual.blocks.0.attn.qkv.weight": torch.ones(1)}), "timm's names.*no plain"),
        (lambda weights: weights.update({"visual.proj": torch.ones(2, 2)}), r"is \[2, 2\], wanted \[48, 32\]"),
        (lambda weights: weights.update({"text_model.x": torch.ones(1)}), "transformers' CLIPModel"),
    ],
)
def test_tensors_that_do_not_fit_are_named(clip, architecture, tmp_path, change, reason):
    weights = dict(clip.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "their.pt")
    with pytest.raises(ConversionRefused, match=reason):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_file_without_weights_says_what_it_holds(architecture, tmp_path):
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "their.pt")
    with pytest.raises(ConversionRefused, match="it holds epoch; optimizer"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")
    torch.save([1, 2], tmp_path / "their.pt")
    with pytest.raises(ConversionRefused, match="holds a list"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-Q-7", "no architecture 'ViT-Q-7'"),
        ("nowhere.json", r"nowhere\.json is no configuration"),
        ("xlm-roberta-base-ViT-B-32", "text tower of .* is xlm-roberta-base"),
    ],
)
def test_architecture_that_is_not_there_is_refused(tmp_path, name, reason):
    with pytest.raises(ConversionRefused, match=reason):
        convert_checkpoint(tmp_path / "their.pt", name, tmp_path / "theirs")


def test_tower_that_cannot_be_aligned_leaves_nothing(tiny_model_config, tmp_path):
    config = tiny_model_config | {"vision_cfg": tiny_model_config["vision_cfg"] | {"final_ln_after_pool": True}}
    (tmp_path / "other.json").write_text(json.dumps(config))
    torch.save(open_clip.model.CLIP(**config).state_dict(), tmp_path / "their.pt")
    with pytest.raises(BaseModelUnfit, match="normalises after pooling"):
        convert_checkpoint(tmp_path / "their.pt", str(tmp_path / "other.json"), tmp_path / "models" / "theirs")
    assert not list((tmp_path / "models").iterdir())


def test_folder_that_is_there_is_left_alone(clip, architecture, tmp_path):
    with pytest.raises(ConversionRefused, match="there already"):
        convert_checkpoint(tmp_path / "their.pt", architecture, tmp_path)
