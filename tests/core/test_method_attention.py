"""Equations 3 to 5 against plain loops in double precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from alignclip_core.method.attention import (
    cls_attention,
    dv_attention,
    mean_over_layers,
    patch_similarity,
    patch_similarity_of_all_classes,
)

BATCH, HEADS, TOKENS, HEAD_DIM = 2, 3, 6, 4


def softmax(values: list[float]) -> list[float]:
    highest = max(values)
    exponentials = [math.exp(value - highest) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def dot(first: torch.Tensor, second: torch.Tensor) -> float:
    return sum(a * b for a, b in zip(first.tolist(), second.tolist(), strict=True))


def reference_cls_attention(query: torch.Tensor, keys: torch.Tensor, *, over_patches: bool) -> torch.Tensor:
    """Probabilities [batch, patches] of one layer, head by head."""
    rows = []
    for image in range(BATCH):
        shares = [0.0] * (TOKENS - 1)
        for head in range(HEADS):
            scores = [
                dot(query[image, head], keys[image, head, token]) / math.sqrt(HEAD_DIM) for token in range(TOKENS)
            ]
            of_head = softmax(scores[1:]) if over_patches else softmax(scores)[1:]
            shares = [share + value / HEADS for share, value in zip(shares, of_head, strict=True)]
        rows.append(shares if over_patches else [share / sum(shares) for share in shares])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(4)


@pytest.fixture
def heads(random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    query, key, value = (2 * torch.randn(BATCH, HEADS, TOKENS, HEAD_DIM, generator=random) for _ in range(3))
    return query, key, value


@pytest.mark.parametrize("over_patches", [True, False])
def test_cls_attention_follows_equation_3(heads, over_patches):
    query, keys, _ = heads
    log_attention = cls_attention(query[:, :, 0], keys, over_patches=over_patches)
    expected = reference_cls_attention(query[:, :, 0], keys, over_patches=over_patches)
    assert_close(log_attention.exp().double(), expected, atol=1e-6, rtol=1e-5)
    assert_close(log_attention.exp().sum(1), torch.ones(BATCH))


def test_the_two_forms_of_cls_attention_differ_when_heads_look_at_the_class_token_unequally(heads):
    query, keys, _ = heads
    printed = cls_attention(query[:, :, 0], keys, over_patches=True)
    authors = cls_attention(query[:, :, 0], keys, over_patches=False)
    assert (printed.exp() - authors.exp()).abs().max() > 0.01


def test_attention_of_several_layers_is_their_mean(heads):
    query, keys, values = heads
    layers = [cls_attention(query[:, :, 0], keys), cls_attention(keys[:, :, 0], values)]
    assert_close(mean_over_layers(layers).exp(), (layers[0].exp() + layers[1].exp()) / 2)


def test_attention_stays_finite_where_its_softmax_is_zero(heads):
    query, keys, _ = heads
    log_attention = cls_attention(1e4 * query[:, :, 0], keys)
    assert (log_attention.exp() == 0).any()
    assert log_attention.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_patch_similarity_follows_equation_4(random, temperature):
    patches = torch.nn.functional.normalize(torch.randn(BATCH, 5, 8, generator=random), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(BATCH, 8, generator=random), dim=-1)
    expected = [
        softmax([dot(patches[image, patch], texts[image]) / temperature for patch in range(5)])
        for image in range(BATCH)
    ]
    log_similarity = patch_similarity(patches, texts, temperature)
    assert_close(log_similarity.exp().double(), torch.tensor(expected, dtype=torch.float64), atol=1e-5, rtol=1e-4)


def test_similarity_of_all_classes_holds_each_classs_own(random):
    patches = torch.nn.functional.normalize(torch.randn(BATCH, 5, 8, generator=random), dim=-1)
    classes = torch.nn.functional.normalize(torch.randn(3, 8, generator=random), dim=-1)
    of_all = patch_similarity_of_all_classes(patches, classes, 0.1)
    for index in range(3):
        assert_close(of_all[:, index], patch_similarity(patches, classes[index].expand(BATCH, -1), 0.1))


def test_dv_attention_leaves_every_token_to_itself(heads):
    assert torch.equal(dv_attention(*heads, structure="dv"), heads[2])


@pytest.mark.parametrize("structure", ["vvv", "kkv", "qqv", "qqq", "qkk"])
def test_other_structures_attend_with_what_stands_in_the_places(heads, structure):
    by_letter = dict(zip("qkv", heads, strict=True))
    query, key, value = (by_letter[letter] for letter in structure)
    attended = dv_attention(*heads, structure=structure)
    for image in range(BATCH):
        for head in range(HEADS):
            for token in range(TOKENS):
                scores = [
                    dot(query[image, head, token], key[image, head, other]) / math.sqrt(HEAD_DIM)
                    for other in range(TOKENS)
                ]
                mixed = sum(share * value[image, head, other].double() for other, share in enumerate(softmax(scores)))
                assert_close(attended[image, head, token].double(), mixed, atol=1e-5, rtol=1e-4)


def test_equations_run_in_full_precision_inside_autocast(heads):
    query, keys, _ = heads
    expected = cls_attention(query[:, :, 0].bfloat16().float(), keys.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_attention = cls_attention(query[:, :, 0].bfloat16(), keys.bfloat16())
    assert log_attention.dtype == torch.float32
    assert torch.equal(log_attention, expected)


def test_gradients_of_the_equations_are_right(heads):
    query, keys, values = (part.double().requires_grad_() for part in heads)
    assert torch.autograd.gradcheck(lambda q, k: cls_attention(q[:, :, 0], k, over_patches=True), (query, keys))
    assert torch.autograd.gradcheck(lambda q, k: cls_attention(q[:, :, 0], k, over_patches=False), (query, keys))
    patches, texts = values[:, 0], values.detach()[:, 1, 0]
    assert torch.autograd.gradcheck(lambda p: patch_similarity(p, texts, 0.5), (patches.detach().requires_grad_(),))
