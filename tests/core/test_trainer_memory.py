"""Micro batches and gradient checkpointing: other ways to the same gradients."""

import math

import pytest
import torch

from alignclip_core.errors import ConfigInvalid, OutOfMemory, TrainingDiverged
from alignclip_core.pixels import normalise
from alignclip_core.ranks import Ranks
from alignclip_core.trainer import Trainer

SHAPES = ("circle", "cross", "square", "triangle")


def gradients_and_values(trainer: Trainer) -> tuple[dict, torch.Tensor]:
    batch = trainer._training_set[1]
    values = trainer._gradients.add(normalise(batch.images, trainer.encoder.preprocess), batch.labels, batch.domains)
    return {name: value.grad.clone() for name, value in trainer._parameters.items()}, values


def run_out_of_memory_above(trainer: Trainer, num_images: int) -> None:
    """As a device would that has memory for so many images: there is none here to fill."""

    def check(module, inputs):
        if len(inputs[0]) > num_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    trainer._algorithm.register_forward_pre_hook(check)


def train(trainer: Trainer) -> list:
    return list(trainer.fit())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_micro_batches_add_up_to_the_gradients_of_the_whole_batch(make_trainer, size, precision):
    whole, values = gradients_and_values(make_trainer(precision=precision))
    parts, values_of_parts = gradients_and_values(make_trainer(precision=precision, micro_batch_size=size))  # 4: 4 + 2
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=tolerance, atol=tolerance * gradient.abs().max().item())
    torch.testing.assert_close(values_of_parts, values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "alignclip"},
        {"algorithm": "alignclip", "dv_structure": "qqv", "dv_mlp": True, "attention_over_patches": False},
        {"algorithm": "finetune"},
        {"trainable": "lora"},
    ],
    ids=["alignclip", "other-branch", "finetune", "lora"],
)
def test_checkpointing_blocks_changes_no_bit(make_trainer, fields, precision):
    kept, values = gradients_and_values(make_trainer(precision=precision, **fields))
    recomputed = make_trainer(precision=precision, gradient_checkpointing=True, **fields)
    runs = []
    recomputed.encoder.visual.transformer.resblocks[2].ln_1.register_forward_hook(lambda *_: runs.append(1))
    gradients, values_again = gradients_and_values(recomputed)
    assert len(runs) == 2  # once in each direction
    assert torch.equal(values, values_again)
    for name, gradient in kept.items():
        assert torch.equal(gradients[name], gradient), name


def test_too_little_memory_halves_the_micro_batch_and_changes_no_step(make_trainer):
    roomy, tight = make_trainer(micro_batch_size=2), make_trainer()
    run_out_of_memory_above(tight, 2)
    train(roomy)
    records = train(tight)
    assert [record.kind for record in records[:3]] == ["event", "event", "train"]
    assert "3 images at a time" in records[0].values["message"]
    assert "2 images at a time. The batch of 6 images stays" in records[1].values["message"]
    assert sum(record.kind == "event" for record in records) == 2
    for name, value in roomy.finished_weights().items():
        assert torch.equal(tight.finished_weights()[name], value), name


def test_memory_that_runs_out_later_leaves_nothing_half_applied(make_trainer):
    trainer, undisturbed = make_trainer(micro_batch_size=3), make_trainer(micro_batch_size=3)
    calls = []

    def second_micro_batch_of_step_three(module, inputs):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer._algorithm.register_forward_pre_hook(second_micro_batch_of_step_three)
    for records in (trainer.fit(), undisturbed.fit()):
        while next(records).step < 2:
            pass
    with torch.no_grad():
        before = {name: value.clone() for name, value in undisturbed._parameters.items()}
    batch = trainer._training_set[3]
    trainer._gradients.add(normalise(batch.images, trainer.encoder.preprocess), batch.labels, batch.domains)
    undisturbed._gradients.add(normalise(batch.images, trainer.encoder.preprocess), batch.labels, batch.domains)
    assert trainer._gradients.micro_batch_size == 2
    for name, parameter in trainer._parameters.items():
        assert torch.equal(parameter, before[name])
        torch.testing.assert_close(parameter.grad, undisturbed._parameters[name].grad, rtol=1e-4, atol=1e-5)


def test_memory_for_no_single_image_is_an_error_with_advice(make_trainer):
    trainer = make_trainer()
    run_out_of_memory_above(trainer, 0)
    with pytest.raises(OutOfMemory, match=r"one image at a time\. gradient_checkpointing") as caught:
        train(trainer)
    assert caught.value.param == "micro_batch_size"


def test_the_probe_finds_what_fits_and_leaves_no_gradient(make_trainer):
    trainer = make_trainer()
    run_out_of_memory_above(trainer, 4)
    trainer._gradients.probe((3, 32, 32), torch.device("cpu"))
    assert trainer._gradients.micro_batch_size == 3
    assert all(parameter.grad is None for parameter in trainer._parameters.values())


def test_a_run_goes_on_with_the_micro_batch_that_it_had_come_down_to(make_trainer):
    tight, resumed, other = make_trainer(), make_trainer(), make_trainer(micro_batch_size=5)
    run_out_of_memory_above(tight, 3)
    next(tight.fit())
    for trainer in (resumed, other):
        trainer.load_state_dict(tight.state_dict())
    assert resumed._gradients.micro_batch_size == 3
    assert other._gradients.micro_batch_size == 5  # as its config says now


def test_one_micro_batch_that_is_not_finite_ends_training_and_names_the_step(make_trainer):
    trainer = make_trainer(micro_batch_size=2)
    calls = []

    def spoil(module, inputs):
        calls.append(1)
        if len(calls) == 5:  # the second of step 2
            inputs[0].fill_(math.nan)

    trainer._algorithm.register_forward_pre_hook(spoil)
    steps = trainer.fit()
    next(steps)
    with pytest.raises(TrainingDiverged, match=r"after step 2 of 8: the loss"):
        list(steps)


def test_more_processes_than_images_are_refused(make_trainer):
    with pytest.raises(ConfigInvalid, match="3 processes need one image each") as caught:
        make_trainer(global_batch_size=2, ranks=Ranks(0, 3))
    assert caught.value.param == "global_batch_size"
