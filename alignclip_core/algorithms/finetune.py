"""Fine-tuning with a linear head (ERM): cross entropy of a weight vector a class, in place of the class texts."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput, cross_entropy_output
from alignclip_core.algorithms.learned_classes import LinearHead


class LinearFinetune(Algorithm):
    """Trains tower and head. With `trainable: none` the head alone, a linear probe."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        add_head(self)

    def forward(self, images: Tensor, labels: Tensor, domains: Tensor | None = None) -> StepOutput:
        return cross_entropy_output(self.logits(self.encoder(images)), labels)


def add_head(algorithm: Algorithm) -> None:
    """Give it the linear head that its config asks for, if it does."""
    config = algorithm.config
    if config.head == "text":
        return
    weight = algorithm.logit_scale * algorithm.class_embeddings
    if config.linear_start == "random":  # as torch begins a linear layer
        random = torch.Generator().manual_seed(config.seed)
        bound = 1 / math.sqrt(weight.shape[1])
        weight = ((2 * torch.rand(weight.shape, generator=random) - 1) * bound).to(weight.device)
    algorithm.learned["classes"] = LinearHead(weight.clone(), algorithm.trained_labels, algorithm.logit_scale)
