"""Equations 7 and 8 against plain loops in double precision."""

import math

import pytest
import torch
from torch.testing import assert_close

from alignclip_core.method.similarity import (
    MAX_SCALE,
    calibrated_scale,
    class_similarity,
    normalised_similarity,
    smoothed_targets,
    uniform_similarity,
)


def reference_cosine(embeddings: list[list[float]]) -> torch.Tensor:
    rows = []
    for first in embeddings:
        row = []
        for second in embeddings:
            dot = sum(a * b for a, b in zip(first, second, strict=True))
            row.append(dot / math.sqrt(sum(a * a for a in first)) / math.sqrt(sum(b * b for b in second)))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def reference_softmax_rows(cosine: torch.Tensor, scale: float) -> torch.Tensor:
    rows = []
    for row in cosine.tolist():
        exponentials = [math.exp(scale * value) for value in row]
        rows.append([value / sum(exponentials) for value in exponentials])
    return torch.tensor(rows, dtype=torch.float64)


def equally_similar(num_classes: int, cosine: float) -> torch.Tensor:
    return torch.full((num_classes, num_classes), cosine).fill_diagonal_(1)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return torch.randn(7, 12, generator=torch.Generator().manual_seed(1))


def test_class_similarity_is_the_cosine_of_every_pair(embeddings):
    assert_close(class_similarity(embeddings).double(), reference_cosine(embeddings.tolist()), atol=1e-6, rtol=0)


def test_class_similarity_is_exactly_symmetric_with_ones_on_the_diagonal():
    cosine = class_similarity(torch.randn(300, 384, generator=torch.Generator().manual_seed(2)))
    assert torch.equal(cosine, cosine.T)
    assert torch.equal(cosine.diagonal(), torch.ones(300))
    assert cosine.abs().max() <= 1


@pytest.mark.parametrize("scale", [1.0, 35.0])
def test_normalised_similarity_is_the_softmax_of_each_row(embeddings, scale):
    cosine = class_similarity(embeddings)
    expected = reference_softmax_rows(cosine, scale)
    assert_close(normalised_similarity(cosine, scale).double(), expected, atol=1e-6, rtol=1e-5)
    assert_close(normalised_similarity(cosine, scale).sum(1), torch.ones(7))


def test_dropping_the_diagonal_leaves_the_other_shares_as_they_were(embeddings):
    cosine = class_similarity(embeddings)
    kept, dropped = normalised_similarity(cosine, 35.0), normalised_similarity(cosine, 35.0, keep_diagonal=False)
    assert torch.equal(dropped.diagonal(), torch.zeros(7))
    assert_close(dropped, kept - torch.diag(kept.diagonal()))


def test_printed_b5_gives_the_own_class_two_percent_of_65_alike_classes():
    share = normalised_similarity(equally_similar(65, 0.8))[0, 0].item()
    assert share == pytest.approx(math.e / (math.e + 64 * math.exp(0.8)))
    assert share == pytest.approx(0.0187, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_targets_mix_the_label_with_its_row_of_similarities(embeddings, smoothing):
    similarity = normalised_similarity(class_similarity(embeddings))
    labels = torch.tensor([3, 0, 6, 3])
    targets = smoothed_targets(labels, similarity, smoothing)
    for row, label in zip(targets.tolist(), labels.tolist(), strict=True):
        for index, value in enumerate(row):
            expected = (1 - smoothing) * (index == label) + smoothing * similarity[label, index].item()
            assert value == pytest.approx(expected, abs=1e-7)
    assert_close(targets.sum(1), torch.ones(4))


def test_the_authors_targets_keep_their_hard_label_weight_and_add_the_unscaled_rest():
    similarity = normalised_similarity(equally_similar(5, 0.8), 35.0, keep_diagonal=False)
    targets = smoothed_targets(torch.tensor([2]), similarity, smoothing=0.1, keep_diagonal=False)
    assert targets[0, 2].item() == pytest.approx(0.9)
    assert targets[0, 0].item() == pytest.approx(math.exp(28) / (math.exp(35) + 4 * math.exp(28)), rel=1e-4)
    assert targets.sum().item() == pytest.approx(0.9036, abs=1e-4)


def test_without_smoothing_both_forms_are_the_plain_label(embeddings):
    similarity = normalised_similarity(class_similarity(embeddings), 35.0)
    labels = torch.arange(7)
    assert torch.equal(smoothed_targets(labels, similarity, 0.0, keep_diagonal=True), torch.eye(7))
    assert torch.equal(smoothed_targets(labels, similarity, 0.0, keep_diagonal=False), torch.eye(7))


def test_uniform_similarity_gives_ordinary_label_smoothing():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 3, 1, 1, 2])
    targets = smoothed_targets(labels, uniform_similarity(4), 0.1)
    ours = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert_close(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))


@pytest.mark.parametrize("own_share", [0.3, 0.6, 0.9])
def test_a_calibrated_scale_leaves_the_classes_that_share_of_their_rows(embeddings, own_share):
    cosine = class_similarity(embeddings)
    shares = reference_softmax_rows(cosine.double(), calibrated_scale(cosine, own_share)).diagonal()
    assert shares.mean().item() == pytest.approx(own_share, abs=1e-9)


def test_a_scale_stays_in_its_bounds_where_no_scale_gives_that_share():
    assert calibrated_scale(torch.ones(1, 1)) == pytest.approx(0, abs=1e-9)
    assert calibrated_scale(torch.ones(3, 3)) == MAX_SCALE
