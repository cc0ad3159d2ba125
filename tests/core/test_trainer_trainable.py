"""Every choice of what is trained: what moves, what is averaged, what is saved, and that a run goes on exactly."""

import pytest
import torch

from alignclip_core.checkpoint import load_checkpoint, save_checkpoint
from alignclip_core.encoder import build_image_encoder
from alignclip_core.errors import ConfigInvalid
from alignclip_core.method.averaging import bma_weights
from alignclip_core.trainer import Trainer

SHAPES = ("circle", "cross", "square", "triangle")
BLOCK = "visual.transformer.resblocks."
WIDTH = 48  # of the tiny model
CHOICES = [
    {"trainable": "all"},
    {"trainable": "last_k_blocks", "trainable_blocks": 2},
    {"trainable": "attention"},
    {"trainable": "query_key"},
    {"trainable": "lora", "lora_rank": 4},
]
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=[choice["trainable"] for choice in CHOICES])


def moved(name: str, before: torch.Tensor, after: torch.Tensor) -> set[str]:
    """The parts of a weight that changed; the joint input projection has three."""
    if ".attn.in_proj_" not in name:
        return set() if torch.equal(before, after) else {name}
    parts = zip(("query", "key", "value"), before.chunk(3), after.chunk(3), strict=True)
    return {f"{name}/{part}" for part, old, new in parts if not torch.equal(old, new)}


def belongs(part: str, trainable: str) -> bool:
    """Whether training with this choice changes that part of the tower."""
    if trainable == "all":
        return True
    if trainable == "last_k_blocks":
        return part.startswith((f"{BLOCK}6.", f"{BLOCK}7.", "visual.ln_post.", "visual.proj"))
    if not part.startswith(BLOCK):
        return False
    if trainable == "attention":
        return ".attn." in part
    if trainable == "query_key":
        return part.endswith(("/query", "/key"))
    is_matrix = part.endswith((".weight", ".in_proj_weight/query", ".in_proj_weight/key", ".in_proj_weight/value"))
    return is_matrix and ".ln_" not in part


@every_choice
def test_what_is_chosen_moves_and_nothing_else(make_trainer, tiny_base_model, choice):
    before = build_image_encoder(tiny_base_model).state_dict()
    trainer = make_trainer(num_steps=3, learning_rate=1e-2, **choice)
    assert {name: value.shape for name, value in trainer.finished_weights().items()} == {
        name: value.shape for name, value in before.items()
    }
    for name, value in trainer.finished_weights().items():
        assert torch.equal(value, before[name])  # low-rank additions begin at nothing
    for _ in trainer.fit():
        pass
    after = trainer.finished_weights()
    changed = set().union(*(moved(name, before[name], after[name]) for name in before))
    everything = set().union(*(moved(name, before[name], before[name] + 1) for name in before))
    # A key's bias moves all scores of a softmax alike: rounding decides whether it moves.
    uncertain = {part for part in everything if part.endswith("in_proj_bias/key")}
    assert changed - uncertain == {part for part in everything if belongs(part, choice["trainable"])} - uncertain


@every_choice
def test_the_kept_weights_are_the_weighted_mean_of_all_towers(make_trainer, choice):
    trainer = make_trainer(num_steps=4, learning_rate=1e-2, **choice)
    towers = [plain_weights(trainer)]
    for record in trainer.fit():
        if record.kind == "train":
            towers.append(plain_weights(trainer))
    weights = bma_weights(4, trainer.config.bma_beta)
    assert not torch.equal(next(iter(towers[0].values())), next(iter(towers[-1].values())))
    for name, kept in trainer.finished_parameters().items():
        expected = sum(weight * tower[name].double() for weight, tower in zip(weights, towers, strict=True))
        torch.testing.assert_close(kept.detach().double(), expected / weights.sum(), rtol=0, atol=1e-6)


@every_choice
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_exactly_from_a_checkpoint_that_serves(
    make_trainer, tiny_base_model, tmp_path, choice, precision
):
    fields = {"num_steps": 5, "precision": precision, **choice}
    whole, stopped, resumed = (make_trainer(**fields) for _ in range(3))
    for _ in whole.fit():
        pass
    for record in stopped.fit():
        if record.kind == "train" and record.step == 2:
            break
    save_checkpoint(tmp_path / "step", stopped.finished_weights(), {"format_version": 1}, stopped.state_dict())
    saved, state = load_checkpoint(tmp_path / "step")
    build_image_encoder(tiny_base_model).load_state_dict(saved.weights)
    resumed.load_state_dict(state)
    for _ in resumed.fit():
        pass
    for name, value in whole.finished_weights().items():
        assert torch.equal(resumed.finished_weights()[name], value), name
    for name, value in whole.state_dict()["parameters"].items():
        assert torch.equal(resumed.state_dict()["parameters"][name], value), name


@every_choice
def test_evaluation_is_that_of_the_plain_weights(make_trainer, choice):
    trainer = make_trainer(num_steps=3, learning_rate=1e-2, **choice)
    for _ in trainer.fit():
        pass
    found = trainer.evaluate_source_validation(("raw", "bma"))
    fresh = make_trainer(num_steps=3)
    for weights, tower in (("raw", plain_weights(trainer)), ("bma", trainer.finished_parameters())):
        fresh.encoder.load_state_dict(trainer.finished_weights() | dict(tower))
        assert fresh.evaluate_source_validation(("raw",))["raw"] == found[weights]


def test_few_weights_are_trained_where_few_are_asked_for(make_trainer):
    count = {}
    for choice in CHOICES:
        trainer = make_trainer(**choice)
        optimised = sum(len(group["params"]) for group in trainer._optimizer.param_groups)
        assert optimised == len(trainer.state_dict()["parameters"])
        count[choice["trainable"]] = sum(value.numel() for value in trainer.state_dict()["parameters"].values())
    assert count["query_key"] == 8 * 2 * (WIDTH * WIDTH + WIDTH)
    assert count["lora"] == 8 * 4 * (4 * WIDTH + 2 * WIDTH + 5 * WIDTH + 5 * WIDTH)
    assert count["query_key"] < count["attention"] < count["all"]
    assert count["last_k_blocks"] < count["all"] / 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"trainable": "last_k_blocks", "trainable_blocks": 9}, "trainable_blocks"),
        ({"trainable": "lora", "frozen_modules": ("transformer",)}, "trainable"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(make_trainer, fields, param):
    with pytest.raises(ConfigInvalid, match=r"8 blocks|nothing to train") as caught:
        make_trainer(**fields)
    assert caught.value.param == param


def plain_weights(trainer: Trainer) -> dict:
    return {name: value.detach().clone() for name, value in trainer._tower.weights().items()}
