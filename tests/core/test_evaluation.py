import math

import pytest
import torch

from alignclip_core.dataset.layout import Sample
from alignclip_core.dataset.splits import EvaluationGroup
from alignclip_core.evaluation import (
    encode_images,
    evaluate,
    evaluated_indices,
    harmonic_mean,
    headline,
    without_details,
)

CLASSES = ("cat", "cow", "dog")
EMBEDDINGS = torch.eye(3)
SAMPLES = (
    Sample("a/cat/0.png", "cat", "a"),
    Sample("a/cat/1.png", "cat", "a"),
    Sample("a/dog/0.png", "dog", "a"),
    Sample("b/dog/1.png", "dog", "b"),
    Sample("b/cow/0.png", "cow", "b"),
)
# Sample 1 looks like a cow, and then more like a cat than like a dog; sample 3 looks like a cat.
LOOKS = torch.tensor([[1.0, 0, 0], [0.5, 0.8, 0.1], [0, 0, 1.0], [0.9, 0, 0.3], [0, 1.0, 0]])


def group(classes, indices, label_space, domains="trained_domains"):
    return EvaluationGroup(domains, classes, indices, label_space)


def test_each_group_is_judged_in_its_own_label_space():
    groups = [
        group("trained_classes", (0, 1, 2, 3), ("cat", "dog")),
        group("all_classes", (0, 1, 2, 3, 4), CLASSES),
    ]
    found = evaluate(LOOKS, SAMPLES, groups, EMBEDDINGS, CLASSES, 10.0)["trained_domains"]
    assert found["trained_classes"]["accuracy"] == 3 / 4  # among cat and dog, sample 1 is a cat
    assert found["all_classes"]["accuracy"] == 3 / 5  # among all, it is a cow
    assert found["trained_classes"]["per_class"] == {"cat": 1.0, "dog": 0.5}
    assert found["trained_classes"]["per_domain"] == {"a": 1.0, "b": 0.0}
    assert found["all_classes"]["num_images"] == 5
    assert found["all_classes"]["standard_error"] == pytest.approx(math.sqrt(0.6 * 0.4 / 5))


def test_the_loss_is_the_cross_entropy_at_the_models_scale():
    groups = [group("trained_classes", (0, 3), ("cat", "dog"))]
    found = evaluate(LOOKS[[0, 3]], SAMPLES, groups, EMBEDDINGS, CLASSES, 2.0)["trained_domains"]["trained_classes"]
    expected = [math.log(1 + math.exp(2.0 * (0 - 1.0))), math.log(1 + math.exp(2.0 * (0.9 - 0.3)))]
    assert found["loss"] == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_rows_belong_to_the_samples_that_the_groups_name():
    groups = [
        group("trained_classes", (2, 0), ("cat", "dog")),
        group("trained_classes", (4,), CLASSES, "test_domains"),
    ]
    assert evaluated_indices(groups) == [0, 2, 4]
    found = evaluate(LOOKS[[0, 2, 4]], SAMPLES, groups, EMBEDDINGS, CLASSES, 1.0)
    assert found["trained_domains"]["trained_classes"]["accuracy"] == 1.0
    assert found["test_domains"]["trained_classes"]["per_class"] == {"cow": 1.0}


def test_images_are_encoded_batch_by_batch_without_gradient():
    weight = torch.ones(1, requires_grad=True)
    features = encode_images(lambda batch: batch.double() * weight, [torch.zeros(2, 4), torch.ones(1, 4)])
    assert features.tolist() == [[0.0] * 4, [0.0] * 4, [1.0] * 4]
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_what_is_called_after_a_batch_may_end_it():
    batches = iter([torch.zeros(1, 2), torch.zeros(1, 2)])

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_images(lambda batch: batch, batches, stop)
    assert len(list(batches)) == 1


def evaluation(accuracy, num_images=100):
    return {"accuracy": accuracy, "standard_error": math.sqrt(accuracy * (1 - accuracy) / num_images)}


def test_the_headline_is_the_gain_on_source_validation_with_its_error():
    before = {"trained_domains": {"trained_classes": evaluation(0.5), "unseen_classes": evaluation(0.4)}}
    after = {"trained_domains": {"trained_classes": evaluation(0.8), "unseen_classes": evaluation(0.2)}}
    found = headline(before, after)
    assert found["gain"] == pytest.approx(0.3)
    assert found["standard_error"] == pytest.approx(math.sqrt(0.25 / 100 + 0.16 / 100))
    assert found["harmonic_mean"]["zero_shot"] == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert found["harmonic_mean"]["tuned"] == pytest.approx(2 * 0.8 * 0.2 / 1.0)


def test_the_headline_says_nothing_about_what_was_not_evaluated():
    assert headline({}, {}) == {}
    only_trained = {"trained_domains": {"trained_classes": evaluation(0.5)}}
    assert "harmonic_mean" not in headline(only_trained, only_trained)


def test_two_accuracies_of_zero_have_the_harmonic_mean_zero():
    assert harmonic_mean({"trained_classes": evaluation(0.0), "unseen_classes": evaluation(0.0)}) == 0.0


def test_an_evaluation_says_how_sensible_its_mistakes_are():
    # Among all, sample 1 (a cat) is taken for a cow and sample 3 (a dog) for a cat.
    embeddings = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1.0]])
    groups = [group("all_classes", (0, 1, 2, 3, 4), CLASSES)]
    found = evaluate(LOOKS, SAMPLES, groups, embeddings, CLASSES, 10.0)["trained_domains"]["all_classes"]
    assert found["error_similarity"] == pytest.approx((0.8 + 0.0) / 2, abs=1e-6)
    assert found["mean_class_similarity"] == pytest.approx(0.8 / 3, abs=1e-6)
    assert "top5_coherence" not in found  # of three classes


def test_an_evaluation_says_which_classes_were_taken_for_which():
    groups = [group("all_classes", (0, 1, 2, 3, 4), CLASSES)]
    found = evaluate(LOOKS, SAMPLES, groups, EMBEDDINGS, CLASSES, 10.0)["trained_domains"]["all_classes"]
    assert found["confusion"]["labels"] == list(CLASSES)
    assert found["confusion"]["counts"] == [[0, 0, 1], [0, 1, 1], [1, 1, 1], [2, 0, 1], [2, 2, 1]]


def test_wrong_images_are_named_with_their_likeliest_classes():
    groups = [group("all_classes", (0, 1, 2, 3, 4), CLASSES)]
    found = evaluate(LOOKS, SAMPLES, groups, EMBEDDINGS, CLASSES, 10.0)["trained_domains"]["all_classes"]
    mistakes = {each["path"]: each for each in found["mistakes"]}
    assert mistakes.keys() == {"a/cat/1.png", "b/dog/1.png"}
    assert (mistakes["b/dog/1.png"]["label"], mistakes["b/dog/1.png"]["source"]) == ("dog", "dataset")
    assert [name for name, _ in mistakes["b/dog/1.png"]["top"]] == ["cat", "dog", "cow"]
    shares = [share for _, share in mistakes["b/dog/1.png"]["top"]]
    assert shares == pytest.approx(torch.softmax(10 * LOOKS[3], 0).sort(descending=True).values.tolist(), abs=1e-6)
    assert "confusion" not in without_details(found)


def test_a_long_list_of_mistakes_is_cut_at_the_same_images_for_every_model():
    samples = [Sample(f"cat/{number}.png", "cat") for number in range(40)]
    indices = tuple(range(40))
    shown = []
    for right in ((0, 1), ()):  # a model that is right twice, and one that never is
        looks = torch.tensor([[1.0, 0, 0] if index in right else [0, 1.0, 0] for index in indices])
        found = evaluate(looks, samples, [group("all_classes", indices, CLASSES)], EMBEDDINGS, CLASSES, 10.0)
        shown.append([each["path"] for each in found["trained_domains"]["all_classes"]["mistakes"]])
    assert [len(paths) for paths in shown] == [12, 12]
    assert len(set(shown[0]) & set(shown[1])) >= 10


def test_shares_of_a_group_are_told_beside_it():
    parts = {"in_split": frozenset({0, 1, 3}), "out_split": frozenset({2}), "empty": frozenset[int]()}
    groups = [EvaluationGroup("test_domains", "trained_classes", (0, 1, 2, 3), ("cat", "dog"), parts)]
    found = evaluate(LOOKS[:4], SAMPLES, groups, EMBEDDINGS, CLASSES, 10.0)["test_domains"]["trained_classes"]
    assert found["parts"] == {
        "in_split": {"accuracy": pytest.approx(2 / 3), "num_images": 3},
        "out_split": {"accuracy": 1.0, "num_images": 1},
    }
