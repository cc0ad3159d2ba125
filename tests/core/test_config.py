import dataclasses
import json

import pytest

from alignclip_core.base_models import BaseModel
from alignclip_core.config import (
    ALGORITHMS,
    DATA_FIELDS,
    HYPERPARAMETERS,
    PRESETS,
    TEMPLATE_SETS,
    FinetuneConfig,
    make_config,
)
from alignclip_core.errors import ConfigInvalid

NAMES = {"dog": "Dog", "cat": "Cat", "cow": "Cow"}
CARD = BaseModel(
    id="card",
    learning_rate=3e-5,
    num_steps=150,
    templates=("a {}.", "{}"),
    frozen_modules=("conv1.trunk",),
    presets={"robust": {"gradient_clip": 1.0, "num_steps": 300}, "authors_code": {"margin": 0.1}},
)


def make(base_model=CARD, class_names=NAMES, **arguments):
    return make_config(base_model, class_names=class_names, **arguments)


def test_the_defaults_are_the_papers_printed_values():
    config = make(BaseModel(id="vit"))
    printed = {
        "algorithm": "alignclip", "preset": "paper", "learning_rate": 5e-6, "num_steps": 5000, "global_batch_size": 36,
        "weight_decay": 0.1, "smoothing": 0.1, "bma_beta": 0.5, "margin": 0.0, "num_aligned_layers": 4,
        "kl_direction": "paper", "gradient_clip": None, "token_temperature": None, "crop_scale": (0.7, 1.0),
        "templates": ("a photo of a {}.",), "similarity_scale": 1.0,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in printed} == printed


def test_class_names_are_sorted_by_folder():
    assert list(make().class_names) == ["cat", "cow", "dog"]


def test_the_card_gives_rate_length_templates_and_what_stays_frozen():
    config = make()
    assert (config.learning_rate, config.num_steps) == (3e-5, 150)
    assert config.templates == ("a {}.", "{}")
    assert config.frozen_modules == ("conv1.trunk",)


def test_what_was_given_wins_over_algorithm_preset_and_card():
    config = make(preset="authors_code", algorithm="clipood", given={"margin": 0.2, "num_steps": 7})
    assert (config.margin, config.num_steps) == (0.2, 7)
    assert config.similarity_scale == 35.0  # the preset's
    assert config.layer_alignment_weight == 0.0  # the algorithm's, over the preset's 10


def test_a_card_may_have_presets_of_its_own_and_change_the_common_ones():
    assert make(preset="robust").gradient_clip == 1.0
    assert make(preset="robust").num_steps == 300
    assert make(preset="authors_code").margin == 0.1
    assert make(preset="authors_code").similarity_scale == 35.0


def test_without_a_preset_the_cards_choice_is_taken():
    card = dataclasses.replace(CARD, preset="robust")
    assert make(card).preset == "robust"
    assert make(card, preset="paper").gradient_clip is None


def test_none_counts_as_not_given():
    assert make(given={"learning_rate": None, "num_steps": None}).num_steps == 150


def test_the_multiplier_multiplies_the_rate_whoever_gave_it():
    assert make(learning_rate_multiplier=2.0).learning_rate == pytest.approx(6e-5)
    assert make(given={"learning_rate": 1e-4}, learning_rate_multiplier=0.5).learning_rate == pytest.approx(5e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_pair_of_preset_and_algorithm_is_a_valid_config(preset, algorithm):
    config = make(preset=preset, algorithm=algorithm)
    assert (config.preset, config.algorithm) == (preset, algorithm)


@pytest.mark.parametrize("algorithm", ["clipood", "finetune", "label_smoothing", "zero_shot"])
def test_the_baselines_have_no_attention_alignment(algorithm):
    config = make(preset="authors_code", algorithm=algorithm)
    assert config.layer_alignment_weight == config.similarity_alignment_weight == 0


def test_plain_fine_tuning_is_cross_entropy_without_an_average():
    config = make(preset="authors_code", algorithm="finetune")
    assert (config.smoothing, config.margin, config.averaging) == (0.0, 0.0, "none")


def test_a_config_survives_json():
    config = make(preset="authors_code", given={"unseen_classes": ("cow",), "test_domains": ("art",), "seed": 3})
    assert FinetuneConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_lists_from_json_are_as_good_as_tuples():
    config = make(given={"crop_scale": [0.5, 1.0], "templates": ["{}"], "frozen_modules": ["conv1"]})
    assert (config.crop_scale, config.templates, config.frozen_modules) == ((0.5, 1.0), ("{}",), ("conv1",))


def test_json_in_another_order_gives_the_same_order_of_classes():
    values = make().to_json()
    values["class_names"] = dict(reversed(values["class_names"].items()))
    assert list(FinetuneConfig.from_json(values).class_names) == ["cat", "cow", "dog"]


@pytest.mark.parametrize("name", ["base_model", "class_names"])
def test_json_without_a_model_or_classes_is_refused(name):
    values = make().to_json()
    del values[name]
    with pytest.raises(ConfigInvalid, match=f"{name} is missing"):
        FinetuneConfig.from_json(values)


def test_trained_classes_are_those_that_are_not_unseen():
    assert make(given={"unseen_classes": ("cow",)}).trained_classes == ("cat", "dog")


def test_every_field_is_either_data_or_a_hyperparameter():
    names = {field.name for field in dataclasses.fields(FinetuneConfig)}
    assert names == DATA_FIELDS | set(HYPERPARAMETERS)
    assert not DATA_FIELDS & set(HYPERPARAMETERS)


@pytest.mark.parametrize("templates", TEMPLATE_SETS.values())
def test_named_template_sets_can_be_used(templates):
    assert make(given={"templates": templates}).templates == templates


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigInvalid, match="'learning_rat'; did you mean 'learning_rate'") as caught:
        make(given={"learning_rat": 1})
    assert caught.value.param == "learning_rat"
    with pytest.raises(ConfigInvalid, match="known: hyphens_to_spaces, num_steps"):
        make(given={"xyzzy": 1})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_steps", 1.5, "whole number"),
        ("num_steps", True, "whole number"),
        ("num_steps", -1, "between 0"),
        ("learning_rate", "fast", "a number"),
        ("learning_rate", 2.0, "between 0 and 1"),
        ("learning_rate", float("nan"), "between 0 and 1"),
        ("global_batch_size", 0, "between 1"),
        ("micro_batch_size", 0, "between 1"),
        ("micro_batch_size", 1.5, "whole number"),
        ("micro_batch_size", None, "whole number"),
        ("gradient_checkpointing", "yes", "true or false"),
        ("trainable", "prompts", "all, last_k_blocks, attention, query_key, lora"),
        ("trainable_blocks", 0, "between 1"),
        ("lora_rank", 0, "between 1"),
        ("smoothing", 0.9, "between 0 and 0.5"),
        ("validation_fraction", 1.0, "between 0 and 0.9"),
        ("precision", "fp8", "auto, fp32, bf16, fp16"),
        ("kl_direction", "other", "paper, target_first"),
        ("averaging", "ema", "bma, swad, none"),
        ("keep_diagonal", 1, "true or false"),
        ("horizontal_flip", "yes", "true or false"),
        ("crop_scale", (0.9, 0.5), "low <= high"),
        ("crop_scale", (0.5,), "two shares"),
        ("crop_scale", "ab", "two shares"),
        ("crop_scale", 0.7, "two shares"),
        ("templates", (), "at least one"),
        ("templates", ("a photo",), "exactly once"),
        ("templates", ("{} and {}",), "exactly once"),
        ("templates", (5,), "list of strings"),
        ("templates", "a photo of a {}.", "list"),
        ("unseen_classes", ("zebra",), "'zebra', which is no class folder"),
        ("unseen_classes", ("cat", "dog"), "fewer than two classes"),
        ("unseen_classes", "cat", "list"),
        ("test_domains", "art", "list"),
        ("frozen_modules", 3, "list"),
        ("class_names", ["cat", "dog"], "folder name to display name"),
        ("warmup_steps", 150, "fewer than num_steps"),
        ("weight_decay", None, "a number"),
        ("gradient_clip", float("inf"), "between"),
        ("seed", 2**63, "between"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(name, value, message):
    with pytest.raises(ConfigInvalid, match=message) as caught:
        FinetuneConfig(**{**dataclasses.asdict(make()), name: value})
    assert caught.value.param == name


def test_unknown_presets_and_algorithms_are_refused_with_the_known_ones():
    with pytest.raises(ConfigInvalid, match="known: authors_code, paper, robust"):
        make(preset="best")
    with pytest.raises(ConfigInvalid, match="known: alignclip, clipood"):
        make(algorithm="lora")
