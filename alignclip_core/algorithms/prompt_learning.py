"""Algorithms that leave both towers as they are and learn the words before a class's name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput, cross_entropy_output, places_by_domain
from alignclip_core.algorithms.learned_classes import LearnedClasses
from alignclip_core.encoder import TextEncoder

CONTEXT_WORDS = "a photo of a"  # where a context begins, as CoOp and CoCoOp have it in their papers' base-to-new runs


class PromptLearning(Algorithm, ABC):
    """Cross entropy of image features against the embeddings of learned prompts. The features come anew each step,
    for each is of a new crop."""

    by_domain: ClassVar[bool] = False  # the prompts of an image depend on the other images of its domain

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        assert self.text_encoder is not None
        with torch.random.fork_rng(devices=[]):  # the same beginning for a seed, whatever was drawn before
            torch.manual_seed(self.config.seed)
            classes = self.begin(self.text_encoder, self.class_embeddings.shape[1])
        self.learned["classes"] = classes.to(self.device)

    @staticmethod
    @abstractmethod
    def begin(text_encoder: TextEncoder, dim: int) -> LearnedClasses:
        """What is learned, as it is before the first step; `dim`: of image features."""

    def forward(self, images: Tensor, labels: Tensor, domains: Tensor | None = None) -> StepOutput:
        with torch.no_grad():
            features = self.encoder(images)
        if not self.by_domain:
            return cross_entropy_output(self.logits(features), labels)
        assert domains is not None
        places = places_by_domain(domains)
        logits = torch.cat([self.logits(features[of_domain]) for of_domain in places])
        return cross_entropy_output(logits, labels[torch.cat(list(places))])
