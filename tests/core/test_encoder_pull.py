"""What `models pull` writes: a folder from which the same model comes back. The hub is a file or a server here."""

import http.server
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import open_clip
import pytest
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import BertConfig, BertTokenizerFast

from alignclip_core.base_models import BaseModel, find_base_model
from alignclip_core.encoder import build_image_encoder, build_model, pull_model
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnfit, BaseModelUnknown
from tests.servers import HttpServer

TEXTS = ["a photo of a dog", "a dog"]


def checkpoint_of(model_config: dict, name: str, folder: Path) -> tuple[BaseModel, torch.nn.Module]:
    """A card whose weights are a file, known to open_clip as `name`, and the model in that file."""
    config_file = folder / f"{name}.json"
    config_file.write_text(json.dumps(model_config))
    open_clip.add_model_config(config_file)
    torch.manual_seed(11)
    model = open_clip.create_model(name, pretrained_text=False)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    torch.save(model.state_dict(), folder / f"{name}.pt")
    card = BaseModel(id="pulled", architecture=name, pretrained=str(folder / f"{name}.pt"), text_model="pulled/text")
    return card, model.eval()


@torch.no_grad()
def assert_same_logits(base_model: BaseModel, reference: torch.nn.Module, tokens: torch.Tensor) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(12))
    model = build_model(base_model)
    logits = model.image_encoder.logit_scale * model.image_encoder(images) @ model.text_encoder.encode(TEXTS).T
    assert_close(logits, reference.get_logits(images, tokens)[0], atol=1e-4, rtol=0)


def test_pulled_model_is_found_and_gives_the_same_logits(tiny_model_config, tmp_path):
    card, reference = checkpoint_of(tiny_model_config, "tiny-pulled", tmp_path)
    messages: list[str] = []
    folder = pull_model(card, tmp_path / "models", messages.append)
    assert folder == tmp_path / "models" / "pulled"
    assert [path.name for path in folder.parent.iterdir()] == ["pulled"]
    assert messages == [f"Fetching tiny-pulled, {card.pretrained}", f"Writing {folder}"]
    found = find_base_model("pulled", tmp_path / "models")
    assert_same_logits(found, reference, open_clip.tokenize(TEXTS))


def test_model_that_is_here_is_not_fetched_again(tiny_model_config, tmp_path):
    card, _ = checkpoint_of(tiny_model_config, "tiny-again", tmp_path)
    folder = pull_model(card, tmp_path / "models")
    unreachable = replace(card, pretrained=str(tmp_path / "nowhere.pt"))
    assert pull_model(unreachable, tmp_path / "models") == folder


def test_hugging_face_text_tower_comes_back_without_its_hub(tiny_model_config, tmp_path):
    source = tmp_path / "text-source"
    source.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "photo", "of", "dog"]
    (source / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(source / "vocab.txt")).save_pretrained(source)
    BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
    ).save_pretrained(source)
    text_config = {
        "hf_model_name": str(source), "hf_tokenizer_name": str(source),
        "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 16,
    }  # fmt: skip
    card, reference = checkpoint_of(tiny_model_config | {"text_cfg": text_config}, "tiny-hf", tmp_path)
    tokens = open_clip.get_tokenizer("tiny-hf")(TEXTS)
    pull_model(card, tmp_path / "models")
    for path in source.iterdir():
        path.unlink()
    assert_same_logits(find_base_model("pulled", tmp_path / "models"), reference, tokens)


class HubFiles(http.server.SimpleHTTPRequestHandler):
    """A folder's files with what the hub's unmodified client wants to know of each."""

    def end_headers(self):
        self.send_header("ETag", '"the-one-version"')
        self.send_header("X-Repo-Commit", "a" * 40)
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of a hub: OWNER/NAME/resolve/main/FILE."""
    folder = tmp_path / "hub"
    folder.mkdir()
    server = HttpServer(partial(HubFiles, directory=str(folder)))
    # what HF_ENDPOINT and HF_HUB_CACHE set when the library is imported
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield folder
    server.stop()


@torch.no_grad()
def test_a_resnet_comes_from_timms_place_on_the_hub(hub, tmp_path):
    card = BaseModel(id="pulled", architecture="resnet18", pretrained="tv_in1k", has_texts=False)
    with pytest.raises(BaseModelNotLocal, match="pulled could not be fetched"):
        pull_model(card, tmp_path / "models")
    torch.manual_seed(13)
    theirs = torchvision.models.resnet18(weights=None).eval()
    place = hub / "timm/resnet18.tv_in1k/resolve/main"
    place.mkdir(parents=True)
    save_file(theirs.state_dict(), place / "model.safetensors")
    pull_model(card, tmp_path / "models")
    encoder = build_image_encoder(find_base_model("pulled", tmp_path / "models"))
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(12))
    assert_close(encoder(images), theirs(images), atol=1e-5, rtol=1e-5)
    assert encoder.preprocess.std == (0.229, 0.224, 0.225)
    assert encoder.preprocess.image_size == 224


def test_failed_fetch_leaves_nothing_behind(tmp_path):
    card = BaseModel(id="pulled", architecture="ViT-B-32", pretrained=str(tmp_path / "nowhere.pt"))
    with pytest.raises(BaseModelNotLocal, match=r"pulled could not be fetched: .*nowhere"):
        pull_model(card, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_card_without_a_source_is_refused(tmp_path):
    with pytest.raises(BaseModelUnknown, match="no architecture"):
        pull_model(BaseModel(id="pulled"), tmp_path)


def test_incomplete_folder_in_the_way_is_named_and_kept(tiny_model_config, tmp_path):
    card, _ = checkpoint_of(tiny_model_config, "tiny-in-the-way", tmp_path)
    note = tmp_path / "models" / "pulled" / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    with pytest.raises(BaseModelUnfit, match="move it away"):
        pull_model(card, tmp_path / "models")
    assert note.read_text() == "mine"
