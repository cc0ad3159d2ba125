"""CORAL (Sun and Saenko 2016, as DomainBed has it): features of all domains share their mean and covariance."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput, cross_entropy_output, places_by_domain
from alignclip_core.algorithms.finetune import add_head
from alignclip_core.method.precision import full_precision


class Coral(Algorithm):
    """Cross entropy with the config's head, and a penalty between every two domains of the batch.

    The penalty's weight of 1 is meant for features of the size that a network's own have.
    """

    needs_whole_batch = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_head(self)

    def forward(self, images: Tensor, labels: Tensor, domains: Tensor | None = None) -> StepOutput:
        assert domains is not None
        features = self.encoder(images)
        places = places_by_domain(domains)
        distance = domain_distance(*(self.encoder.at_own_size(features[of_domain]) for of_domain in places))
        return cross_entropy_output(self.logits(features), labels, self.config.domain_alignment_weight * distance)


@full_precision
def domain_distance(*features: Tensor) -> Tensor:
    """Mean over pairs of domains of the mean squared differences of their means and of their covariances."""
    if len(features) < 2:
        return features[0].new_zeros(())
    statistics = [(of_domain.mean(dim=0), _covariance(of_domain)) for of_domain in features]
    distances = [
        (mean - other_mean).square().mean() + (covariance - other_covariance).square().mean()
        for (mean, covariance), (other_mean, other_covariance) in itertools.combinations(statistics, 2)
    ]
    return torch.stack(distances).mean()


def _covariance(features: Tensor) -> Tensor:
    """Unbiased; zero for a single image."""
    centred = features - features.mean(dim=0)
    return centred.T @ centred / max(len(features) - 1, 1)
