"""The losses against one slow double-precision reference, written with plain loops from the paper's formulas."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from alignclip_core.config import FinetuneConfig
from alignclip_core.method.losses import (
    Losses,
    attention_alignment_loss,
    frozen_distance,
    layer_alignment_loss,
    margin_logits,
    semantic_smoothing_loss,
    similarity_alignment_loss,
    total_loss,
)
from alignclip_core.method.similarity import class_similarity, normalised_similarity, smoothed_targets

BATCH, PATCHES, CLASSES, DIM = 3, 5, 4, 8
LOGIT_SCALE = 20.0
CONFIG = FinetuneConfig(base_model="tiny", class_names={"cat": "cat", "dog": "dog"})


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Arguments of `total_loss`."""
    random = torch.Generator().manual_seed(6)

    def unit(*shape: int) -> torch.Tensor:
        return normalize(torch.randn(*shape, generator=random), dim=-1)

    labels = torch.tensor([2, 0, 2])
    class_embeddings = unit(CLASSES, DIM)
    similarity = normalised_similarity(class_similarity(class_embeddings))
    return {
        "image_features": unit(BATCH, DIM),
        "log_cls_attention": torch.randn(BATCH, PATCHES, generator=random).log_softmax(1),
        "patch_features": unit(BATCH, PATCHES, DIM),
        "dv_patch_features": unit(BATCH, PATCHES, DIM),
        "class_embeddings": class_embeddings,
        "targets": smoothed_targets(labels, similarity, 0.1),
        "labels": labels,
    }


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(values)) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def dot(first: list[float], second: list[float]) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def reference_losses(tensors: dict[str, torch.Tensor], config: FinetuneConfig) -> tuple[float, float, float, float]:
    """(total, SLS, AL, AS), image by image."""
    values = {name: tensor.tolist() for name, tensor in tensors.items()}
    texts = values["class_embeddings"]
    temperature = config.token_temperature or 1 / LOGIT_SCALE
    sls = al = as_ = 0.0
    for image, label in enumerate(values["labels"]):
        feature = [f - config.margin * t for f, t in zip(values["image_features"][image], texts[label], strict=True)]
        probabilities = softmax([LOGIT_SCALE * dot(feature, text) for text in texts])
        sls -= sum(t * math.log(p) for t, p in zip(values["targets"][image], probabilities, strict=True)) / BATCH

        def over_patches(name: str, text: int, image: int = image) -> list[float]:
            return softmax([dot(patch, texts[text]) / temperature for patch in values[name][image]])

        def kl(p: list[float], target: list[float]) -> float:
            return divergence(target, p) if config.kl_direction == "target_first" else divergence(p, target)

        attention = [math.exp(value) for value in values["log_cls_attention"][image]]
        target_name = "dv_patch_features" if config.attention_target == "dv" else "patch_features"
        al += kl(attention, over_patches(target_name, label)) / BATCH
        if config.attention_target == "dv":
            for text in range(CLASSES) if config.similarity_over_all_classes else [label]:
                as_ += kl(over_patches("patch_features", text), over_patches("dv_patch_features", text)) / BATCH
    total = (
        config.layer_alignment_weight * al
        + config.similarity_alignment_weight * as_
        + config.smoothing_loss_weight * sls
    )
    return total, sls, al, as_


def values_of(losses: Losses) -> tuple[float, float, float, float]:
    parts = (losses.total, losses.smoothing, losses.layer_alignment, losses.similarity_alignment)
    return tuple(part.item() for part in parts)


@pytest.mark.parametrize("kl_direction", ["paper", "target_first"])
@pytest.mark.parametrize("attention_target", ["dv", "main"])
@pytest.mark.parametrize("similarity_over_all_classes", [False, True])
@pytest.mark.parametrize(("margin", "token_temperature"), [(0.0, None), (0.3, 1.0)])
def test_losses_follow_the_printed_equations(
    tensors, kl_direction, attention_target, similarity_over_all_classes, margin, token_temperature
):
    config = replace(
        CONFIG,
        kl_direction=kl_direction,
        attention_target=attention_target,
        similarity_over_all_classes=similarity_over_all_classes,
        margin=margin,
        token_temperature=token_temperature,
        layer_alignment_weight=0.7,
        similarity_alignment_weight=0.3,
        smoothing_loss_weight=1.9,
    )
    losses = total_loss(**tensors, logit_scale=LOGIT_SCALE, config=config)
    assert values_of(losses) == pytest.approx(reference_losses(tensors, config), rel=1e-4, abs=1e-6)


def test_margin_takes_from_each_class_what_it_shares_with_the_true_one():
    class_embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    logits = margin_logits(torch.tensor([[0.8, 0.6]]), class_embeddings, torch.tensor([0]), 100.0, margin=0.3)
    assert_close(logits, torch.tensor([[100 * (0.8 - 0.3), 100 * (0.96 - 0.3 * 0.6)]]))


def test_smoothing_loss_is_the_mix_of_cross_entropy_and_the_similarity_term():
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    labels = torch.tensor([0, 1])
    similarity = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    loss = semantic_smoothing_loss(logits, smoothed_targets(labels, similarity, 0.1))
    similarity_term = -(similarity[labels] * logits.log_softmax(1)).sum(1).mean()
    assert_close(loss, 0.9 * cross_entropy(logits, labels) + 0.1 * similarity_term)


def test_golden_numbers_of_the_divergences():
    attention = torch.tensor([[0.5, 0.25, 0.25]]).log()
    target = torch.tensor([[0.25, 0.25, 0.5]]).log()
    peaked = torch.tensor([[0.8, 0.1, 0.1]]).log()
    assert layer_alignment_loss(attention, target).item() == pytest.approx(0.25 * math.log(2))
    assert layer_alignment_loss(peaked, target).item() == pytest.approx(0.67795, abs=1e-5)
    assert layer_alignment_loss(peaked, target, "target_first").item() == pytest.approx(0.74300, abs=1e-5)
    assert similarity_alignment_loss(target, target).item() == 0
    both_classes = torch.stack([attention, peaked], dim=1)
    assert similarity_alignment_loss(both_classes, target[:, None].expand(-1, 2, -1)).item() == pytest.approx(
        0.25 * math.log(2) + 0.67795, abs=1e-5
    )


def test_divergences_are_zero_for_equal_distributions_and_positive_otherwise(tensors):
    log_attention = tensors["log_cls_attention"]
    for kl_direction in ("paper", "target_first"):
        assert layer_alignment_loss(log_attention, log_attention, kl_direction).item() == 0
        assert layer_alignment_loss(log_attention, log_attention.roll(1, dims=1), kl_direction).item() > 0


def test_with_the_main_branch_as_target_its_similarity_has_nothing_to_align_with(tensors):
    tensors["dv_patch_features"] = None
    losses = total_loss(**tensors, logit_scale=LOGIT_SCALE, config=replace(CONFIG, attention_target="main"))
    assert losses.layer_alignment.item() > 0
    assert losses.similarity_alignment.item() == 0


def test_switched_off_terms_need_no_tensors_and_leave_cross_entropy(tensors):
    config = replace(CONFIG, layer_alignment_weight=0.0, similarity_alignment_weight=0.0)
    tensors |= {"log_cls_attention": None, "patch_features": None, "dv_patch_features": None}
    tensors["targets"] = torch.eye(CLASSES)[tensors["labels"]]
    losses = total_loss(**tensors, logit_scale=LOGIT_SCALE, config=config)
    expected = cross_entropy(LOGIT_SCALE * tensors["image_features"] @ tensors["class_embeddings"].T, tensors["labels"])
    assert_close(losses.total, expected)
    assert (losses.layer_alignment.item(), losses.similarity_alignment.item()) == (0, 0)


def test_gradient_reaches_attention_and_main_branch_alone(tensors):
    trained = ("image_features", "log_cls_attention", "patch_features")
    for name in trained:
        tensors[name].requires_grad_()
    total_loss(**tensors, logit_scale=LOGIT_SCALE, config=CONFIG).total.backward()
    for name in trained:
        assert tensors[name].grad.abs().max() > 0, name
    for name in ("dv_patch_features", "class_embeddings", "targets"):
        assert tensors[name].grad is None, name


def test_layer_alignment_pulls_attention_and_not_the_features(tensors):
    names = ("log_cls_attention", "patch_features")
    for name in names:
        tensors[name].requires_grad_()
    arguments = {name: tensors[name] for name in (*names, "dv_patch_features", "class_embeddings", "labels")}
    layer_alignment, similarity_alignment = attention_alignment_loss(
        **arguments, logit_scale=LOGIT_SCALE, config=CONFIG
    )
    of_al = torch.autograd.grad(layer_alignment, [tensors[name] for name in names], allow_unused=True)
    of_as = torch.autograd.grad(similarity_alignment, [tensors[name] for name in names], allow_unused=True)
    assert [gradient is not None for gradient in of_al] == [True, False]
    assert [gradient is not None for gradient in of_as] == [False, True]


def test_losses_are_fp32_and_equal_inside_autocast(tensors):
    expected = total_loss(**tensors, logit_scale=LOGIT_SCALE, config=CONFIG)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = total_loss(**tensors, logit_scale=LOGIT_SCALE, config=CONFIG)
    assert losses.total.dtype == torch.float32
    assert values_of(losses) == values_of(expected)


def test_frozen_distance_is_the_mean_of_one_minus_the_cosine(tensors):
    features, frozen = tensors["image_features"], tensors["patch_features"][:, 0]
    pairs = zip(features.tolist(), frozen.tolist(), strict=True)
    expected = sum(1 - dot(one, other) / math.sqrt(dot(one, one) * dot(other, other)) for one, other in pairs) / BATCH
    assert frozen_distance(features, frozen).item() == pytest.approx(expected, rel=1e-5)
    assert frozen_distance(features, features).item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_frozen_distance_is_its_slope_and_none_at_the_start():
    random = torch.Generator().manual_seed(7)
    tokens = torch.randn(BATCH, DIM, dtype=torch.float64, generator=random, requires_grad=True)
    frozen = normalize(torch.randn(BATCH, DIM, dtype=torch.float64, generator=random), dim=-1)
    assert torch.autograd.gradcheck(lambda values: frozen_distance(normalize(values, dim=-1), frozen), tokens)
    frozen_distance(normalize(tokens, dim=-1), normalize(tokens.detach(), dim=-1)).backward()
    assert tokens.grad.abs().max() < 1e-12
