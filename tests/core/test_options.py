"""docs/options.md has every field of the config with its default and a test that exists; and tests for the rest."""

import ast
import json
import math
import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch

from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import build_image_encoder
from alignclip_core.trainer import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| \[(\w+)\]\(([^)]+)\) \|")


@pytest.fixture(scope="module")
def rows():
    """Field name to (symbol, default, effect, test, file)."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    matches = [ROW.fullmatch(line) for line in lines]
    assert None not in matches, lines[matches.index(None)]
    return {match[1]: match.groups()[1:] for match in matches}


def test_every_field_of_the_config_has_its_row_in_order(rows):
    assert list(rows) == [field.name for field in fields(FinetuneConfig)]


def test_every_default_on_the_page_is_the_configs(rows):
    for field in fields(FinetuneConfig):
        expected = "given" if field.default is MISSING else f"`{json.dumps(field.default)}`"
        assert rows[field.name][1] == ("none" if field.default is None else expected), field.name


def test_every_test_on_the_page_exists_in_a_file_that_names_the_field(rows):
    sources = {file: (PAGE.parent / file).read_text() for *_, file in rows.values()}
    tests = {
        file: {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
        for file, source in sources.items()
    }
    for name, (*_, test, file) in rows.items():
        assert test.startswith("test_"), name
        assert test in tests[file], (name, test)
        assert name in sources[file], f"{file} never gives {name} a value"


# The options that no other test proves


def run(trainer: Trainer) -> dict[str, torch.Tensor]:
    for _ in trainer.fit():
        pass
    return {name: value.detach().clone() for name, value in trainer.encoder.named_parameters()}


@pytest.mark.parametrize("size", [1, 5, 12])
def test_a_batch_holds_as_many_images_as_the_config_says(make_trainer, size):
    trainer = make_trainer(global_batch_size=size)
    assert len(trainer._training_set[1].images) == len(trainer._training_set[1].labels) == size


def test_weight_decay_shrinks_each_weight_by_its_share_of_the_rate(make_trainer, tiny_base_model):
    before = dict(build_image_encoder(tiny_base_model).named_parameters())
    with_decay, without = (
        run(make_trainer(num_steps=1, learning_rate=1e-3, weight_decay=decay)) for decay in (0.5, 0.0)
    )
    for name, value in without.items():
        torch.testing.assert_close(with_decay[name], value - 1e-3 * 0.5 * before[name], rtol=0, atol=1e-6)


def test_gradients_are_clipped_to_their_norm(make_trainer):
    def norms(**fields) -> list[float]:
        trainer, found = make_trainer(num_steps=3, **fields), []

        def look(*_) -> None:
            gradients = [value.grad.flatten() for value in trainer._parameters.values()]
            found.append(torch.cat(gradients).norm().item())

        trainer._optimizer.register_step_pre_hook(look)
        run(trainer)
        return found

    assert min(norms()) > 0.05
    assert norms(gradient_clip=0.05) == pytest.approx([0.05] * 3, rel=1e-3)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_is_that_of_the_forward_pass_and_no_weight(make_trainer, precision, dtype):
    trainer, seen = make_trainer(num_steps=1, precision=precision), set()
    trainer.encoder.visual.conv1.register_forward_hook(lambda module, arguments, output: seen.add(output.dtype))
    weights = run(trainer)
    assert seen == {dtype}
    assert {value.dtype for value in (*weights.values(), *trainer.finished_weights().values())} == {torch.float32}


def test_logit_scale_multiplies_the_cosines_in_training_and_evaluation(make_trainer):
    trainer = make_trainer(algorithm="finetune", num_steps=1, logit_scale=1e-3)  # so small that all classes are alike
    found = trainer.evaluate_source_validation(("raw",))["raw"]
    assert found["loss"] == pytest.approx(math.log(4), abs=1e-3)
    assert next(trainer.fit()).values["smoothing_loss"] == pytest.approx(math.log(4), abs=1e-3)
    own = make_trainer(algorithm="finetune", num_steps=1).evaluate_source_validation(("raw",))["raw"]
    assert own["accuracy"] == found["accuracy"]
    assert abs(own["loss"] - math.log(4)) > 0.05
