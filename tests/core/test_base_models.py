import json
import shutil

import pytest

from alignclip_core.base_models import CARD_FILE, PULLABLE, find_base_model, list_base_models, read_card
from alignclip_core.config import make_config
from alignclip_core.errors import BaseModelNotLocal, BaseModelUnknown


@pytest.fixture
def models_dir(tmp_path, tiny_base_model):
    shutil.copytree(tiny_base_model.folder, tmp_path / "tiny")
    return tmp_path


def test_the_starter_is_always_there_and_comes_first(tmp_path):
    models = list_base_models(tmp_path / "nowhere")
    assert models[0].id == "starter"
    assert models[0].is_local
    assert {model.id for model in models[1:]} == {model.id for model in PULLABLE}
    assert not any(model.is_local for model in models[1:])


def test_the_starters_card_says_what_it_may_be_used_for(starter_model):
    assert "not for products" in starter_model.licence
    assert "conv1.trunk" in starter_model.frozen_modules
    assert make_config(starter_model, class_names={"a": "a", "b": "b"}).num_steps == starter_model.num_steps


def test_ids_can_stand_in_a_url():
    assert all("/" not in model.id for model in PULLABLE)


def test_openai_weights_are_paired_with_quick_gelu():
    openai = [model for model in PULLABLE if model.pretrained == "openai"]
    assert openai
    assert all(model.architecture.endswith("-quickgelu") for model in openai)


def test_a_folder_with_weights_is_a_model(models_dir):
    model = find_base_model("tiny", models_dir)
    assert model.folder == models_dir / "tiny"
    assert model.text_model == "tiny"
    (models_dir / "notes").mkdir()
    assert "notes" not in {model.id for model in list_base_models(models_dir)}


def test_a_card_beside_the_weights_gives_the_models_own_values(models_dir):
    card = {"learning_rate": 0.5, "templates": ["{}"], "frozen_modules": ["conv1"], "id": "other", "colour": "red"}
    (models_dir / "tiny" / CARD_FILE).write_text(json.dumps(card))
    model = read_card(models_dir / "tiny", "tiny")
    assert (model.id, model.learning_rate, model.templates, model.frozen_modules) == ("tiny", 0.5, ("{}",), ("conv1",))


def test_a_pulled_model_keeps_its_catalogue_entry(models_dir):
    shutil.copytree(models_dir / "tiny", models_dir / "vit-b-16-openai")
    model = find_base_model("vit-b-16-openai", models_dir)
    assert model.is_local
    assert model.text_model == "ViT-B-16-quickgelu/openai"


def test_an_unknown_model_is_refused_with_the_nearest_one(models_dir):
    with pytest.raises(BaseModelUnknown, match="'vit-b-16'; did you mean 'vit-b-16-openai'") as caught:
        find_base_model("vit-b-16", models_dir)
    assert caught.value.param == "model"
    with pytest.raises(BaseModelUnknown, match="known: starter"):
        find_base_model("zzz", models_dir)


def test_a_model_that_is_not_here_yet_comes_with_the_command_that_fetches_it(models_dir):
    with pytest.raises(BaseModelNotLocal, match="alignclip models pull vit-l-14-openai"):
        find_base_model("vit-l-14-openai", models_dir)
