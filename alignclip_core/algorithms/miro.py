"""MIRO (Cha et al. 2022): features of the tower stay near the pre-trained tower's, each channel by its own variance."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput, cross_entropy_output
from alignclip_core.algorithms.finetune import add_head
from alignclip_core.method.precision import full_precision

START, LEAST = 0.1, 1e-5  # of a variance: where it begins, and what is added to it


class Miro(Algorithm):
    """Cross entropy with the config's head, plus the distance of the stem's and some blocks' tokens from the frozen.

    The mean encoder is the identity, as the authors have it; the variances are learned ten times as fast as the tower.
    """

    learned_rate = 10.0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_head(self)
        self.frozen = copy.deepcopy(self.encoder).requires_grad_(False)
        num_blocks = self.encoder.num_blocks
        self.blocks = [(quarter + 1) * num_blocks // 4 - 1 for quarter in range(4)]  # of twelve: 2, 5, 8, 11
        width = self.encoder.token_width
        before_softplus = math.log(math.expm1(START))
        self.variances = nn.ParameterList(
            [torch.full((width,), before_softplus, device=self.device) for _ in range(len(self.blocks) + 1)]
        )
        self.learned["variances"] = self.variances

    def forward(self, images: Tensor, labels: Tensor, domains: Tensor | None = None) -> StepOutput:
        features, tokens = self.encoder.forward_blocks(images, self.blocks)
        with torch.no_grad():
            _, frozen_tokens = self.frozen.forward_blocks(images, self.blocks)
        distance = torch.stack(
            [
                feature_distance(own, frozen, raw_variance)
                for own, frozen, raw_variance in zip(tokens, frozen_tokens, self.variances, strict=True)
            ]
        ).sum()
        return cross_entropy_output(self.logits(features), labels, self.config.feature_distance_weight * distance)


@full_precision
def feature_distance(features: Tensor, frozen: Tensor, raw_variance: Tensor) -> Tensor:
    """½ mean((f - f⁰)² / σ² + log σ²), with σ² = softplus(raw) for each channel."""
    variance = F.softplus(raw_variance) + LEAST
    return ((features - frozen).square() / variance + variance.log()).mean() / 2
