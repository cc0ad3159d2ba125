"""The two misalignments against plain loops, and golden numbers."""

import math

import pytest
import torch
from torch.testing import assert_close

from alignclip_core.method.attention import patch_similarity
from alignclip_core.method.misalignment import attention_divergence, class_misalignment, object_attention_share
from alignclip_core.method.similarity import class_similarity


@pytest.fixture
def random():
    return torch.Generator().manual_seed(3)


def test_class_misalignment_equals_plain_loops(random):
    logits = torch.randn(20, 8, generator=random, dtype=torch.float64)
    labels = torch.randint(8, (20,), generator=random)
    cosine = class_similarity(torch.randn(8, 5, generator=random, dtype=torch.float64))
    errors, coherence, to_truth = [], [], []
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranked = sorted(range(8), key=lambda column: -scores[column])
        if ranked[0] != label:
            errors.append(cosine[label, ranked[0]].item())
        top = ranked[:5]
        coherence += [cosine[a, b].item() for a in top for b in top if a < b]
        to_truth += [cosine[label, other].item() for other in top if other != label]
    found = class_misalignment(logits, labels, cosine)
    assert found.error_similarity == pytest.approx(sum(errors) / len(errors))
    assert found.top5_coherence == pytest.approx(sum(coherence) / len(coherence))
    assert found.top5_similarity_to_truth == pytest.approx(sum(to_truth) / len(to_truth))
    pairs = [cosine[a, b].item() for a in range(8) for b in range(a)]
    assert found.mean_class_similarity == pytest.approx(sum(pairs) / len(pairs))


def test_sensible_mistakes_are_more_like_the_truth_than_blind_ones():
    animals_and_cars = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    cosine = class_similarity(animals_and_cars)
    labels = torch.arange(4)
    sensible = class_misalignment(torch.eye(4)[[1, 0, 3, 2]], labels, cosine)
    absurd = class_misalignment(torch.eye(4)[[2, 3, 0, 1]], labels, cosine)
    assert absurd.error_similarity < sensible.mean_class_similarity < sensible.error_similarity


def test_without_errors_and_with_few_classes_there_is_nothing_to_say():
    found = class_misalignment(torch.eye(5), torch.arange(5), torch.eye(5))
    assert (found.error_similarity, found.top5_coherence, found.top5_similarity_to_truth) == (None, None, None)


def test_attention_divergence_is_torchs_kl_of_every_layer(random):
    attention = torch.randn(3, 4, 9, generator=random, dtype=torch.float64).softmax(-1)
    patches = torch.nn.functional.normalize(torch.randn(3, 9, 6, generator=random, dtype=torch.float64), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(3, 6, generator=random, dtype=torch.float64), dim=-1)
    log_similarity = patch_similarity(patches, texts, 0.1)
    found = attention_divergence(attention, log_similarity)
    for image in range(3):
        for layer in range(4):
            expected = torch.nn.functional.kl_div(log_similarity[image], attention[image, layer], reduction="sum")
            assert_close(found[image, layer], expected)
    assert_close(attention_divergence(attention[:, 2], log_similarity), found[:, 2])


def test_attention_that_is_all_on_one_patch_has_a_finite_divergence():
    found = attention_divergence(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.full((1, 4), 0.25).log())
    assert found.item() == pytest.approx(math.log(4))


def test_share_of_attention_on_the_object_counts_patches_by_what_of_them_it_covers():
    attention = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]])  # two rows of two patches
    masks = torch.zeros(2, 8, 8)
    masks[0, :4] = 1  # the upper half
    masks[1, 4:, 2:4] = 1  # half of the lower left patch
    assert_close(object_attention_share(attention, masks), torch.tensor([0.7, 0.125]))
    assert_close(object_attention_share(attention, torch.ones(2, 8, 8)), torch.ones(2))
