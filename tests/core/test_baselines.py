"""Each baseline by what defines it, and that trainer, average, resume and finished model hold for what it learns."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from alignclip_core.algorithms.coral import domain_distance
from alignclip_core.algorithms.miro import feature_distance
from alignclip_core.base_models import BaseModel
from alignclip_core.checkpoint import make_manifest, save_model
from alignclip_core.config import ALGORITHMS, make_config
from alignclip_core.encoder import build_image_encoder, build_text_encoder
from alignclip_core.errors import ConfigInvalid
from alignclip_core.finished_model import load_finished_model
from alignclip_core.prompts import embed_classes

PROMPTS = ("coop", "cocoop", "dpl")
DOMAINS = ("plain", "dotted")


def run(trainer) -> dict[str, torch.Tensor]:
    for _ in trainer.fit():
        pass
    return {name: value.clone() for name, value in trainer.finished_weights().items()}


def finished(trainer, base_model, similarity, folder):
    manifest = make_manifest(
        trainer.config,
        base_model,
        similarity,
        preprocessing=trainer.encoder.preprocess,
        logit_scale=trainer.encoder.logit_scale,
        step=trainer.step,
    )
    save_model(folder, trainer.finished_weights(), manifest)
    return load_finished_model(folder, base_model)


def batch_of(trainer, step: int = 1):
    batch = trainer._training_set[step]
    images = torch.randn(len(batch.labels), 3, 32, 32, generator=torch.Generator().manual_seed(step))
    return images, batch.labels, batch.domains


def test_coral_equals_its_slow_form_and_is_zero_for_one_domain():
    random = torch.Generator().manual_seed(1)
    features = [torch.randn(size, 5, generator=random) for size in (4, 7, 3)]
    expected = []
    for first in range(3):
        for second in range(first):
            one, other = (features[domain].double().numpy() for domain in (first, second))
            difference = 0.0
            for i in range(5):
                difference += (one[:, i].mean() - other[:, i].mean()) ** 2 / 5
                for j in range(5):
                    covariances = [
                        sum((row[i] - x[:, i].mean()) * (row[j] - x[:, j].mean()) for row in x) / (len(x) - 1)
                        for x in (one, other)
                    ]
                    difference += (covariances[0] - covariances[1]) ** 2 / 25
            expected.append(difference)
    assert domain_distance(*features).item() == pytest.approx(sum(expected) / 3, rel=1e-5)
    assert domain_distance(*features[:1]).item() == 0


def test_coral_adds_its_distance_between_the_domains_of_a_batch(make_trainer):
    trainer = make_trainer(domains=DOMAINS, algorithm="coral", domain_alignment_weight=3.0)
    images, labels, domains = batch_of(trainer)
    losses = trainer._algorithm(images, labels, domains).losses
    features = trainer.encoder(images) * math.sqrt(32)
    distance = domain_distance(features[domains == 0], features[domains == 1])
    assert_close(losses.total, losses.smoothing + 3 * distance)
    assert distance.item() > 0
    alone = trainer._algorithm(images, labels, torch.zeros_like(domains)).losses
    assert_close(alone.total, alone.smoothing)


@pytest.mark.parametrize("algorithm", ["coral", "dpl"])
def test_what_compares_domains_takes_no_part_of_a_batch(make_trainer, algorithm):
    with pytest.raises(ConfigInvalid, match="domains of a whole batch"):
        make_trainer(algorithm=algorithm, micro_batch_size=2, global_batch_size=6)


def test_miro_begins_at_no_distance_and_no_gradient_of_it(make_trainer):
    features = torch.randn(3, 4, 5, requires_grad=True)
    raw = torch.zeros(5)
    feature_distance(features, features.detach(), raw).backward()
    assert features.grad.abs().max() == 0
    moved = feature_distance(features + 1, features.detach(), raw)
    variance = math.log(2) + 1e-5
    assert moved.item() == pytest.approx((1 / variance + math.log(variance)) / 2, rel=1e-5)

    trainer = make_trainer(algorithm="miro", feature_distance_weight=0.5)
    images, labels, domains = batch_of(trainer)
    losses = trainer._algorithm(images, labels, domains).losses
    # stem and four blocks, each with the same variance at first
    assert_close(losses.total, losses.smoothing + 0.5 * 5 * torch.tensor(math.log(0.1 + 1e-5) / 2))


def test_miro_reads_the_stem_and_the_last_block_of_each_quarter(make_trainer):
    trainer = make_trainer(algorithm="miro")
    assert trainer._algorithm.blocks == [1, 3, 5, 7]  # of eight
    images, _, _ = batch_of(trainer)
    features, tokens = trainer.encoder.forward_blocks(images, trainer._algorithm.blocks)
    assert_close(features, trainer.encoder(images))
    visual = trainer.encoder.visual
    expected = visual._embeds(images)
    assert_close(tokens[0], expected)
    for index, block in enumerate(visual.transformer.resblocks):
        expected = block(expected)
        if index in trainer._algorithm.blocks:
            assert_close(tokens[1 + trainer._algorithm.blocks.index(index)], expected, atol=1e-4, rtol=1e-4)


def test_miro_learns_its_variances_ten_times_as_fast_and_does_not_keep_them(make_trainer):
    trainer = make_trainer(algorithm="miro", num_steps=2)
    rates = {group["rate"]: len(group["params"]) for group in trainer._optimizer.param_groups}
    assert rates[10.0] == 5
    before = trainer._parameters["learned.variances.0"].detach().clone()
    weights = run(trainer)
    assert not torch.equal(trainer._parameters["learned.variances.0"], before)
    assert not any(name.startswith("learned") for name in weights)


@pytest.mark.parametrize("averaging", ["none", "bma"])
def test_wise_ft_keeps_the_interpolation_exactly(make_trainer, tiny_base_model, averaging):
    base = build_image_encoder(tiny_base_model).state_dict()
    mixed = run(make_trainer(algorithm="wise_ft", interpolation_weight=0.25, averaging=averaging))
    tuned = run(make_trainer(algorithm="finetune", averaging=averaging))
    for name, value in mixed.items():
        assert torch.equal(value, (0.75 * base[name].double() + 0.25 * tuned[name].double()).float()), name


@pytest.mark.parametrize("algorithm", ["finetune", "coral", "miro"])
def test_linear_head_is_cross_entropy_of_its_rows(make_trainer, algorithm):
    trainer = make_trainer(algorithm=algorithm, head="linear", unseen_classes=("cross",))
    images, labels, domains = batch_of(trainer)
    head = trainer._parameters["learned.classes.weight"]
    assert head.shape == (3, 32)
    expected = F.cross_entropy(trainer.encoder(images) @ head.T, labels)
    assert_close(trainer._algorithm(images, labels, domains).losses.smoothing, expected)


def test_linear_head_begins_as_its_config_says(make_trainer, similarity):
    head = make_trainer(algorithm="finetune", head="linear")._parameters["learned.classes.weight"]
    assert_close(head, 20.0 * torch.from_numpy(similarity.class_embeddings))
    random = make_trainer(algorithm="finetune", head="linear", linear_start="random")
    weight = random._parameters["learned.classes.weight"]
    assert weight.abs().max() <= 1 / math.sqrt(32)
    assert weight.std().item() == pytest.approx(1 / math.sqrt(3 * 32), rel=0.2)


def test_a_linear_probe_trains_its_head_alone(make_trainer, tiny_base_model):
    base = build_image_encoder(tiny_base_model).state_dict()
    trainer = make_trainer(algorithm="finetune", head="linear", trainable="none")
    assert list(trainer._parameters) == ["learned.classes.weight"]
    before = trainer._parameters["learned.classes.weight"].detach().clone()
    weights = run(trainer)
    assert all(torch.equal(weights[name], value) for name, value in base.items())
    assert not torch.equal(weights["learned.classes.weight"], before)


def test_a_linear_head_serves_its_labels_and_texts_serve_others(make_trainer, tiny_base_model, similarity, tmp_path):
    trainer = make_trainer(algorithm="finetune", head="linear", linear_start="random")
    run(trainer)
    model = finished(trainer, tiny_base_model, similarity, tmp_path / "model")
    texts = build_text_encoder(tiny_base_model)
    weight = trainer._parameters["learned.classes.weight"].detach()
    assert_close(model.class_embeddings_of(texts, ["square", "circle"]) * 20.0, weight[[2, 0]])
    other = model.class_embeddings_of(texts, ["square", "zebra"])
    assert_close(other, embed_classes(texts, ["square", "zebra"], model.templates))


@pytest.mark.parametrize("algorithm", PROMPTS)
def test_prompt_learners_move_what_they_learn_and_nothing_else(make_trainer, tiny_base_model, algorithm):
    base = build_image_encoder(tiny_base_model).state_dict()
    trainer = make_trainer(algorithm=algorithm, domains=DOMAINS, num_steps=3, global_batch_size=6)
    assert all(name.startswith("learned.classes.") for name in trainer._parameters)
    tower = trainer._algorithm.text_encoder._tower
    texts = {name: value.clone() for name, value in tower.state_dict().items()}
    before = {name: value.detach().clone() for name, value in trainer._parameters.items()}
    weights = run(trainer)
    assert all(torch.equal(weights[name], value) for name, value in base.items())
    assert all(torch.equal(tower.state_dict()[name], value) for name, value in texts.items())
    assert not any(torch.equal(weights[name], value) for name, value in before.items())


def test_coop_begins_as_the_prompt_of_its_words(make_trainer, tiny_base_model):
    trainer = make_trainer(algorithm="coop")
    texts = build_text_encoder(tiny_base_model)
    names = ["dog", "alarm_clock"]
    learned = trainer._algorithm.learned_classes
    found = learned.class_embeddings_of(texts, names, torch.zeros(0, 32))
    assert_close(found, embed_classes(texts, names, ("a photo of a {}.",)), atol=1e-5, rtol=0)
    assert list(trainer._parameters) == ["learned.classes.context"]
    assert trainer._parameters["learned.classes.context"].shape == (4, 32)


def test_the_starters_text_tower_takes_a_context_with_gradient_and_alone(starter_model):
    texts = build_text_encoder(starter_model)
    context = texts.embed_words("a photo of a").requires_grad_()
    found = texts.encode_with_context(["dog", "alarm clock"], context)
    assert_close(found.detach(), texts.encode(["a photo of a dog.", "a photo of a alarm clock."]), atol=1e-5, rtol=0)
    found.sum().backward()
    assert context.grad.abs().max() > 0
    assert not any(parameter.requires_grad for parameter in texts._tower.parameters())


def test_cocoops_context_depends_on_the_image_and_coops_does_not(make_trainer, tiny_base_model):
    texts = build_text_encoder(tiny_base_model)
    features = F.normalize(torch.randn(2, 32, generator=torch.Generator().manual_seed(5)), dim=-1)
    learned = make_trainer(algorithm="cocoop", global_batch_size=6)._algorithm.learned_classes
    contexts = learned.context_of(features)
    assert contexts.shape == (2, 4, 32)
    hidden = (features @ learned.down.weight.T + learned.down.bias).clamp(min=0)
    shift = hidden @ learned.up.weight.T + learned.up.bias
    assert_close(contexts - learned.context, shift[:, None].expand(2, 4, 32), atol=1e-5, rtol=1e-4)
    embeddings = learned.class_embeddings_of(texts, ["dog", "cat", "fox"], features)
    assert embeddings.shape == (2, 3, 32)
    alone = texts.encode_with_context(["dog", "cat", "fox"], contexts[1])
    assert_close(embeddings[1], alone, atol=1e-5, rtol=0)
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-4


def test_dpls_prompt_is_the_mean_over_the_images_of_a_domain(make_trainer, tiny_base_model):
    trainer = make_trainer(algorithm="dpl", domains=DOMAINS)
    learned = trainer._algorithm.learned_classes
    features = F.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(6)), dim=-1)
    with torch.no_grad():
        each = torch.stack([learned.context_of(feature[None]) for feature in features])
        assert each.shape == (4, 16, 32)
        assert_close(learned.context_of(features), each.mean(dim=0), atol=1e-6, rtol=1e-5)
        images, labels, domains = batch_of(trainer)
        output = trainer._algorithm(images, labels, domains)
        features, expected = trainer.encoder(images), torch.zeros(())
        for domain in (0, 1):
            own = features[domains == domain]
            texts = learned.class_embeddings_of(trainer._algorithm.text_encoder, trainer._algorithm.trained_labels, own)
            expected += F.cross_entropy(20.0 * own @ texts.T, labels[domains == domain], reduction="sum")
    assert_close(output.losses.total, expected / len(labels), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("algorithm", PROMPTS)
def test_a_finished_prompt_learner_classifies_any_labels_with_what_it_learned(
    make_trainer, tiny_base_model, similarity, tmp_path, algorithm
):
    trainer = make_trainer(algorithm=algorithm, num_steps=2, global_batch_size=6, domains=DOMAINS)
    run(trainer)
    model = finished(trainer, tiny_base_model, similarity, tmp_path / "model")
    assert model.needs_image_features == (algorithm != "coop")
    features = F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(7)), dim=-1)
    texts = build_text_encoder(tiny_base_model)
    found = model.class_embeddings_of(texts, ["zebra", "ladder"], image_features=features)
    with torch.no_grad():
        own = trainer._algorithm.learned_classes.class_embeddings_of(texts, ["zebra", "ladder"], features)
    assert_close(found, own)
    assert (found - embed_classes(texts, ["zebra", "ladder"], model.templates)).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("algorithm", "averaging"),
    [("coop", "bma"), ("cocoop", "none"), ("dpl", "bma"), ("miro", "none"), ("wise_ft", "bma"), ("alignclip", "none")],
)
def test_a_run_that_goes_on_ends_at_the_same_bits(make_trainer, algorithm, averaging):
    fields = {"num_steps": 4, "global_batch_size": 2, "averaging": averaging, "domains": DOMAINS}
    fields |= {"frozen_distance_weight": 5.0} if algorithm == "alignclip" else {}
    whole = make_trainer(algorithm=algorithm, **fields)
    expected = run(whole)
    first = make_trainer(algorithm=algorithm, **fields)
    for record in first.fit():
        if record.step == 2:
            break
    state = copy.deepcopy(first.state_dict())
    again = make_trainer(algorithm=algorithm, **fields)
    again.load_state_dict(state)
    for name, value in run(again).items():
        assert torch.equal(value, expected[name]), name


def test_sgd_takes_torchs_own_steps(make_trainer):
    trainer = make_trainer(algorithm="finetune", optimizer="sgd", momentum=0.5, weight_decay=0.0, num_steps=1)
    assert isinstance(trainer._optimizer, torch.optim.SGD)
    assert trainer._optimizer.param_groups[0]["momentum"] == 0.5
    before = {name: value.detach().clone() for name, value in trainer._parameters.items()}
    gradients = {}
    trainer._optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: value.grad.clone() for name, value in trainer._parameters.items()})
    )
    run(trainer)
    for name, value in trainer._parameters.items():
        assert_close(value.detach(), before[name] - 1e-3 * gradients[name], atol=1e-7, rtol=1e-5)


def test_every_algorithm_tells_what_it_trains(make_trainer):
    told = {
        algorithm: make_trainer(algorithm=algorithm, global_batch_size=4).describe_trained()
        for algorithm in ALGORITHMS
        if algorithm != "zero_shot"
    }
    assert told["coop"] == {"modules": ["learned.classes"], "num_parameters": 4 * 32}
    assert told["finetune"]["modules"][-1].startswith("visual.")
    assert told["miro"]["num_parameters"] == told["finetune"]["num_parameters"] + 5 * 48


@pytest.mark.parametrize(
    ("algorithm", "given", "message"),
    [
        ("finetune", {"trainable": "none"}, "nothing to train"),
        ("coop", {"trainable": "all"}, "trains prompts"),
        ("alignclip", {"head": "linear"}, "needs the class texts"),
    ],
)
def test_what_does_not_go_together_is_refused(algorithm, given, message):
    with pytest.raises(ConfigInvalid, match=message):
        make_config(BaseModel(id="tiny"), class_names={"a": "a", "b": "b"}, algorithm=algorithm, given=given)


def test_many_learned_prompts_are_the_same_in_parts_and_at_once(tiny_base_model):
    texts = build_text_encoder(tiny_base_model)
    contexts = torch.randn(30, 4, 32, generator=torch.Generator().manual_seed(8))
    words = ["dog", "cat", "alarm clock"]
    at_once = texts.encode_with_context(words, contexts)
    with torch.no_grad():  # in parts of 64, one of which ends inside an image's words
        assert_close(texts.encode_with_context(words, contexts), at_once, atol=1e-5, rtol=0)
