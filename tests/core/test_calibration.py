"""Temperature, calibration error and rejection against independent computations, and on their way into a model."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from alignclip_core.calibration import auroc, calibrate, expected_calibration_error, fit_temperature
from alignclip_core.classifier import Classifier


def answers(num_images: int = 400, num_classes: int = 6, scale: float = 8.0):
    random = torch.Generator().manual_seed(3)
    labels = torch.randint(num_classes, (num_images,), generator=random)
    logits = torch.randn(num_images, num_classes, generator=random)
    logits[torch.arange(num_images), labels] += 1.0
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.3, 8.0])
def test_temperature_has_the_least_loss(scale):
    logits, labels = answers(scale=scale)
    found = minimize_scalar(
        lambda log: cross_entropy(logits.double() / np.exp(log), labels).item(), bounds=(-5, 5), method="bounded"
    )
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(found.x), rel=1e-3)


def test_calibration_error_is_torchmetrics_own_and_falls():
    logits, labels = answers()
    found = calibrate(logits, labels)
    for value, temperature in ((found.ece_before, 1.0), (found.ece_after, found.temperature)):
        probabilities = torch.softmax(logits.double() / temperature, dim=1)
        expected = multiclass_calibration_error(probabilities, labels, num_classes=6, n_bins=15)
        assert value == pytest.approx(expected.item(), abs=1e-6)
        assert value == pytest.approx(expected_calibration_error(probabilities, labels))
    assert found.ece_after < found.ece_before
    assert found.auroc is None


def test_without_unknown_images_nineteen_of_twenty_known_ones_are_accepted():
    logits, labels = answers()
    found = calibrate(logits, labels)
    confidence = torch.softmax(logits.double() / found.temperature, dim=1).amax(dim=1)
    assert (confidence >= found.reject_below).double().mean().item() == pytest.approx(0.95, abs=0.005)


def test_unknown_images_give_auroc_and_the_threshold_that_parts_best():
    logits, labels = answers()
    unknown = 4 * torch.randn(100, 6, generator=torch.Generator().manual_seed(4))
    found = calibrate(logits, labels, unknown)
    known, other = (torch.softmax(each.double() / found.temperature, dim=1).amax(dim=1) for each in (logits, unknown))
    truth = torch.cat([torch.ones(400), torch.zeros(100)]).int()
    assert found.auroc == pytest.approx(binary_auroc(torch.cat([known, other]), truth).item(), abs=1e-6)
    assert auroc(torch.ones(3), torch.ones(2)) == 0.5
    rates = {
        threshold: ((known >= threshold).double().mean() + (other < threshold).double().mean()).item()
        for threshold in torch.cat([known, other]).tolist()
    }
    assert rates[found.reject_below] == pytest.approx(max(rates.values()), abs=1e-6)


def test_a_trainer_calibrates_what_it_keeps_where_validation_has_enough_images(make_trainer):
    trainer = make_trainer(num_images=60, validation_fraction=0.5, num_steps=1, unseen_classes=("cross", "square"))
    found = trainer.calibrate()
    assert found.num_images == 60
    assert found.auroc is not None
    assert make_trainer(num_images=40, validation_fraction=0.5, num_steps=1, calibrate=False).calibrate() is None
    assert make_trainer(num_steps=1).calibrate() is None


def test_calibrated_probabilities_are_those_of_cooler_logits():
    class NoTower:
        num_bytes = 0

    logits, labels = answers(num_images=60, num_classes=4)
    calibration = calibrate(logits, labels)
    features, texts = torch.eye(4)[:2], torch.eye(4)
    plain = Classifier(NoTower(), None, 8.0)
    calibrated = Classifier(NoTower(), None, 8.0, calibration)
    expected = torch.softmax(plain.probabilities(features, texts).log() / calibration.temperature, dim=1)
    torch.testing.assert_close(calibrated.probabilities(features, texts), expected)
    sure, unsure = torch.tensor([[0.99, 0.01]]), torch.full((1, 4), 0.25)
    assert calibrated.rejected(sure).tolist() == [False]
    assert calibrated.rejected(unsure).tolist() == [True]
    assert plain.rejected(unsure).tolist() == [False]
