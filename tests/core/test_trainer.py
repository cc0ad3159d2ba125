import math

import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from alignclip_core.checkpoint import load_checkpoint, save_checkpoint
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.errors import ConfigInvalid, TrainingDiverged
from alignclip_core.method.averaging import bma_weights
from alignclip_core.optimizer import learning_rate_at
from alignclip_core.pixels import normalise

SHAPES = ("circle", "cross", "square", "triangle")


def assert_equal_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def copies(tensors) -> dict:
    return {name: value.detach().clone() for name, value in tensors.items()}


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithm": "alignclip"},
        {"algorithm": "alignclip", "precision": "bf16", "gradient_clip": 1.0, "num_loader_workers": 1},
        {"algorithm": "finetune", "warmup_steps": 3, "precision": "fp16"},
        {"averaging": "swad", "evaluate_every_steps": 1, "pooling": "average"},
    ],
    ids=["alignclip", "bf16", "finetune-fp16", "swad-average-pooling"],
)
def test_a_run_that_stops_and_goes_on_equals_one_that_does_not_bit_for_bit(make_run, make_trainer, tmp_path, fields):
    run_dir = make_run(**fields)
    whole = make_trainer(run_dir)
    for _ in whole.fit():
        pass
    stopped = make_trainer(run_dir)
    for record in stopped.fit():
        if record.kind == "train" and record.step == 5:
            break
    save_checkpoint(tmp_path / "step-000005", stopped.finished_weights(), {"format_version": 1}, stopped.state_dict())
    del stopped
    torch.manual_seed(99)  # the state of another process
    resumed = make_trainer(run_dir)
    resumed.load_state_dict(load_checkpoint(tmp_path / "step-000005")[1])
    steps = [record.step for record in resumed.fit() if record.kind == "train"]
    assert steps == [6, 7, 8]
    assert_equal_weights(resumed.finished_weights(), whole.finished_weights())
    assert_equal_weights(resumed.state_dict()["parameters"], whole.state_dict()["parameters"])


def test_a_run_that_is_stopped_in_an_evaluation_goes_on_as_well(make_run, make_trainer):
    run_dir = make_run(evaluate_every_steps=3)
    whole, stopped, resumed = (make_trainer(run_dir) for _ in range(3))
    for _ in whole.fit():
        pass

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in stopped.fit(stop):
            pass
    assert stopped.step == 3
    resumed.load_state_dict(stopped.state_dict())
    assert [record.step for record in resumed.fit() if record.kind == "train"] == [4, 5, 6, 7, 8]
    assert_equal_weights(resumed.finished_weights(), whole.finished_weights())


def test_fine_tuning_equals_a_plain_loop_over_the_same_batches(make_trainer, tiny_base_model):
    trainer = make_trainer(algorithm="finetune", num_steps=6)
    images_of_steps = [trainer._training_set[step] for step in range(1, 7)]
    for _ in trainer.fit():
        pass

    encoder = build_image_encoder(tiny_base_model)
    texts = build_text_encoder(tiny_base_model).encode(
        [f"a photo of a {name}." for name in trainer.config.class_names.values()]
    )
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for batch in images_of_steps:
        features = encoder(normalise(batch.images, encoder.preprocess))
        loss = F.cross_entropy(encoder.logit_scale * features @ texts.T, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    ours = trainer.finished_weights()
    width = encoder.visual.proj.shape[0]
    for name, value in encoder.state_dict().items():
        if name.endswith("attn.in_proj_bias"):
            # A key's bias moves all scores of a softmax alike: its gradient is noise around 0, which AdamW blows up.
            value[width : 2 * width] = ours[name][width : 2 * width]
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=2e-5)


def test_the_learning_rate_is_torchs_cosine():
    config = _Lengths(learning_rate=0.1, num_steps=20, warmup_steps=0)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for update in range(20):
        assert learning_rate_at(update, config) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_warm_up_rises_evenly_and_the_cosine_follows():
    config = _Lengths(learning_rate=0.4, num_steps=14, warmup_steps=4)
    rates = [learning_rate_at(update, config) for update in range(14)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[9] == pytest.approx(0.2)
    assert rates == sorted(rates[:4]) + sorted(rates[4:], reverse=True)


class _Lengths:
    def __init__(self, **fields):
        self.__dict__.update(fields)


def test_the_kept_weights_are_the_weighted_mean_over_all_steps(make_trainer):
    trainer = make_trainer(num_steps=5)
    seen = [copies(trainer.state_dict()["parameters"])]
    for record in trainer.fit():
        if record.kind == "train":
            seen.append(copies(trainer.state_dict()["parameters"]))
    weights = bma_weights(5, trainer.config.bma_beta)
    name = "visual.transformer.resblocks.3.mlp.c_fc.weight"
    expected = sum(w * s[name].double() for w, s in zip(weights, seen, strict=True)) / weights.sum()
    torch.testing.assert_close(trainer.finished_weights()[name], expected.float(), rtol=0, atol=1e-6)
    assert not torch.equal(seen[-1][name], seen[0][name])


def test_without_averaging_the_last_weights_are_kept(make_trainer):
    trainer = make_trainer(averaging="none", num_steps=2)
    for _ in trainer.fit():
        pass
    assert trainer.weight_sets == ("raw",)
    parameters = trainer.state_dict()["parameters"]
    assert torch.equal(trainer.finished_weights()["visual.proj"], parameters["visual.proj"])


def test_swad_keeps_the_mean_of_the_steps_from_its_first_evaluation_on(make_trainer):
    # The valley begins at once, and at this rate no loss leaves it.
    trainer = make_trainer(averaging="swad", swad_converge=1, evaluate_every_steps=2, learning_rate=1e-5)
    seen, told = [], {}
    for record in trainer.fit():
        told[record.kind] = record.values
        if record.kind == "train":
            seen.append(copies(trainer.state_dict()["parameters"]))
    assert told["evaluation"].keys() == {"raw", "swad"}
    assert "bma_weight" not in told["train"]
    name = "visual.transformer.resblocks.3.mlp.c_fc.weight"
    expected = torch.stack([state[name].double() for state in seen]).mean(dim=0)
    torch.testing.assert_close(trainer.finished_weights()[name], expected.float(), rtol=0, atol=1e-7)
    assert not torch.equal(seen[-1][name], trainer.finished_weights()[name])


def test_swad_that_is_stopped_in_an_evaluation_goes_on_as_well(make_run, make_trainer):
    run_dir = make_run(averaging="swad", evaluate_every_steps=2)
    whole, stopped, resumed = (make_trainer(run_dir) for _ in range(3))
    for _ in whole.fit():
        pass

    def stop():
        if stopped.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for _ in stopped.fit(stop):
            pass
    resumed.load_state_dict(stopped.state_dict())
    for _ in resumed.fit():
        pass
    assert_equal_weights(resumed.finished_weights(), whole.finished_weights())
    assert resumed._average._threshold == whole._average._threshold


def test_swad_without_validation_images_is_refused(make_trainer):
    with pytest.raises(ConfigInvalid, match="swad follows the loss on validation images"):
        make_trainer(averaging="swad", validation_fraction=0.0)


def test_zero_shot_is_pooled_as_the_base_model_is_whatever_is_trained(make_trainer, tiny_base_model):
    own, average = make_trainer(num_steps=1), make_trainer(num_steps=1, pooling="average")
    assert average.evaluate_zero_shot() == own.evaluate_zero_shot()
    source = average.evaluate_whole()["trained_domains"]["trained_classes"]
    assert source["loss"] != own.evaluate_whole()["trained_domains"]["trained_classes"]["loss"]


def test_source_validation_says_where_the_tower_looks_before_and_after(make_trainer):
    only_attention = {"smoothing_loss_weight": 0.0, "similarity_alignment_weight": 0.0, "token_temperature": 1.0}
    trainer = make_trainer(num_steps=20, num_aligned_layers=2, evaluate_every_steps=1000, **only_attention)
    evaluations = [trainer.evaluate_zero_shot()]
    for _ in trainer.fit():
        pass
    evaluations.append(trainer.evaluate_whole())
    before, after = (found["trained_domains"]["trained_classes"]["attention"] for found in evaluations)
    assert before["num_images"] == after["num_images"] == 4
    assert len(after["attention_divergence_per_layer"]) == 8
    assert 0 < after["attention_divergence"] < before["attention_divergence"]
    # The mean of distributions is at most as far away as they are in the mean.
    assert after["attention_divergence"] <= sum(after["attention_divergence_per_layer"][:2]) / 2


def test_where_the_tower_looks_is_what_the_losses_are_made_of(make_trainer):
    trainer = make_trainer(num_aligned_layers=3)
    found = trainer.evaluate_whole()["trained_domains"]["trained_classes"]["attention"]
    split = trainer._evaluation.split
    samples = [split.samples[index] for index in split.validation]
    images = normalise(next(trainer._evaluation.images(samples)), trainer.encoder.preprocess)
    labels = torch.tensor([trainer.config.trained_classes.index(sample.class_name) for sample in samples])
    losses = trainer._algorithm(images, labels).losses
    assert found["attention_divergence"] == pytest.approx(losses.layer_alignment.item(), rel=1e-4)
    assert found["similarity_divergence"] == pytest.approx(losses.similarity_alignment.item(), rel=1e-4)


def test_where_images_have_masks_it_says_how_much_attention_is_on_the_object(make_run, make_trainer):
    run_dir = make_run()
    assert "num_masks" not in make_trainer(run_dir).evaluate_whole()["trained_domains"]["trained_classes"]["attention"]
    split = make_trainer(run_dir)._evaluation.split
    first, second = (run_dir.dataset / split.samples[index].path for index in split.validation[:2])
    left = Image.new("L", (40, 40))  # as large as the drawings
    left.paste(255, (0, 0, 20, 40))
    left.save(first.with_suffix(".mask.png"))
    ImageOps.invert(left).save(second.with_suffix(".mask.png"))
    trainer = make_trainer(run_dir)
    assert trainer._evaluation.split == split
    found = trainer.evaluate_whole()["trained_domains"]["trained_classes"]["attention"]
    assert found["num_masks"] == 2
    samples = [split.samples[index] for index in split.validation[:2]]
    images = normalise(next(trainer._evaluation.images(samples)), trainer.encoder.preprocess)
    seen = trainer.encoder.forward_explained(images, trainer.config).cls_attention[:, :4].mean(dim=1).view(2, 4, 4)
    shares = (seen[0, :, :2].sum() + seen[1, :, 2:].sum()) / 2
    assert found["object_attention_share"] == pytest.approx(shares.item(), abs=1e-3)


def test_finished_weights_fill_a_fresh_tower(make_trainer, tiny_base_model):
    trainer = make_trainer(num_steps=2)
    for _ in trainer.fit():
        pass
    build_image_encoder(tiny_base_model).load_state_dict(trainer.finished_weights())


def test_frozen_modules_stay_and_the_rest_moves(make_trainer, tiny_base_model):
    trainer = make_trainer(num_steps=3, frozen_modules=("conv1", "transformer.resblocks.0"))
    before = build_image_encoder(tiny_base_model).state_dict()
    for _ in trainer.fit():
        pass
    after = trainer.finished_weights()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    still = set(before) - moved
    assert {name for name in before if name.startswith(("visual.conv1", "visual.transformer.resblocks.0."))} == still


def test_watching_changes_nothing(make_trainer):
    quiet = make_trainer(evaluate_every_steps=1000, checkpoint_every_steps=1000)
    watched = make_trainer(evaluate_every_steps=1, checkpoint_every_steps=1)
    for _ in quiet.fit():
        pass
    for record in watched.fit():
        if record.kind == "checkpoint":
            watched.state_dict()
    assert_equal_weights(quiet.finished_weights(), watched.finished_weights())


def test_every_step_evaluation_and_checkpoint_is_told_in_order(make_trainer):
    trainer = make_trainer(num_steps=6, evaluate_every_steps=2, checkpoint_every_steps=4)
    told = [(record.step, record.kind) for record in trainer.fit()]
    assert told == [
        (1, "train"), (2, "train"), (2, "evaluation"), (3, "train"), (4, "train"), (4, "evaluation"),
        (4, "checkpoint"), (5, "train"), (6, "train"), (6, "checkpoint"),
    ]  # fmt: skip


def test_watching_looks_at_an_even_sample_of_a_large_validation_set(make_trainer):
    fields = {"num_steps": 10, "global_batch_size": 2, "num_images": 70, "validation_fraction": 0.5}
    found = next(r for r in make_trainer(**fields).fit() if r.kind == "evaluation").values["raw"]
    assert found["num_images"] == 100
    assert found["per_class"].keys() == set(SHAPES)
    trainer = make_trainer(**fields, evaluate_every_steps=1)
    assert next(r for r in trainer.fit() if r.kind == "evaluation").values["raw"]["num_images"] == 140
    assert trainer.evaluate_source_validation(("raw",))["raw"]["num_images"] == 140


def test_a_step_tells_its_losses_and_its_speed(make_trainer):
    trainer = make_trainer(num_steps=3)
    records = [record for record in trainer.fit() if record.kind == "train"]
    for record in records:
        values = record.values
        assert values["loss"] == pytest.approx(
            values["smoothing_loss"] + values["layer_alignment_loss"] + values["similarity_alignment_loss"], rel=1e-5
        )
        assert values["layer_alignment_loss"] > 0
        assert values["similarity_alignment_loss"] > 0
        assert 0 <= values["accuracy"] <= 1
        assert values["images_per_second"] > 0
    weights = bma_weights(3, 0.5)
    assert records[1].values["bma_weight"] == pytest.approx(float(weights[2] / weights[:3].sum()))
    assert records[1].values["learning_rate"] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 3)) / 2)


def test_terms_that_are_switched_off_are_told_as_zero(make_trainer):
    trainer = make_trainer(algorithm="clipood", num_steps=1)
    values = next(trainer.fit()).values
    assert values["layer_alignment_loss"] == values["similarity_alignment_loss"] == 0
    assert values["loss"] == pytest.approx(values["smoothing_loss"])


@pytest.mark.parametrize("algorithm", ["alignclip", "clipood", "finetune", "label_smoothing"])
def test_every_algorithm_learns_the_shapes(make_trainer, algorithm):
    trainer = make_trainer(algorithm=algorithm, num_steps=30, global_batch_size=12, evaluate_every_steps=1000)
    losses = [record.values["smoothing_loss"] for record in trainer.fit() if record.kind == "train"]
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])


def test_unseen_classes_and_test_domains_take_no_part_in_training(make_trainer):
    trainer = make_trainer(
        domains=("plain", "dotted"), unseen_classes=("circle",), test_domains=("dotted",), num_steps=1
    )
    assert trainer.config.trained_classes == ("cross", "square", "triangle")
    assert {sample.class_name for sample in trainer._training_set.samples} == {"cross", "square", "triangle"}
    assert {sample.domain for sample in trainer._training_set.samples} == {"plain"}
    assert trainer._algorithm.class_embeddings.shape[0] == 3
    groups = trainer.evaluate_whole()
    assert groups["test_domains"]["all_classes"]["num_images"] == 20
    assert groups["trained_domains"]["all_classes"]["per_class"].keys() == {"circle", "cross", "square", "triangle"}


def test_evaluation_is_that_of_the_weights_that_are_named(make_trainer, tiny_base_model):
    trainer = make_trainer(num_steps=6, learning_rate=1e-2)
    before = trainer.evaluate_source_validation(("raw", "bma"))
    assert before["raw"] == before["bma"]
    for _ in trainer.fit():
        pass
    after = trainer.evaluate_source_validation(("raw", "bma"))
    assert after["raw"]["loss"] != after["bma"]["loss"]
    encoder = build_image_encoder(tiny_base_model)
    encoder.load_state_dict(trainer.finished_weights())
    fresh = make_trainer(num_steps=6)
    fresh.encoder.load_state_dict(trainer.finished_weights())
    assert fresh.evaluate_source_validation(("raw",))["raw"] == after["bma"]


def test_a_loss_that_is_not_finite_ends_training_and_names_the_step(make_trainer):
    trainer = make_trainer(evaluate_every_steps=1000, checkpoint_every_steps=1000)
    steps = trainer.fit()
    next(steps)
    next(steps)
    with torch.no_grad():
        trainer.encoder.visual.proj[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match=r"after step 3 of 8: the loss.*learning_rate"):
        next(steps)


def test_a_weight_that_is_not_finite_is_named(make_trainer):
    trainer = make_trainer()
    trainer.check_weights()
    with torch.no_grad():
        trainer.encoder.visual.class_embedding[3] = math.inf
    with pytest.raises(TrainingDiverged, match=r"visual\.class_embedding"):
        trainer.check_weights()


def test_features_that_are_not_finite_are_no_evaluation(make_trainer):
    trainer = make_trainer()
    with torch.no_grad():
        trainer.encoder.visual.proj[0, 0] = math.nan
    with pytest.raises(TrainingDiverged, match="after step 0 of 8: the image features"):
        trainer.evaluate_source_validation(("raw",))


def test_a_state_of_another_length_is_refused(make_trainer):
    state = make_trainer(num_steps=4).state_dict()
    with pytest.raises(ValueError, match="num_steps=4"):
        make_trainer(num_steps=5).load_state_dict(state)
