"""DPL (Zhang et al. 2021): a network makes the prompt of a domain from the features of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.algorithms.learned_classes import LearnedClasses, embed_with_context
from alignclip_core.algorithms.prompt_learning import PromptLearning
from alignclip_core.encoder import TextEncoder

NUM_TOKENS = 16
HIDDEN_WIDTH = 512
DROPOUT = 0.1  # while training


class DomainContext(LearnedClasses):
    """Three layers from image features to a context; a domain's is the mean over the images that are there."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, HIDDEN_WIDTH)
        self.second = nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH)
        self.last = nn.Linear(HIDDEN_WIDTH, NUM_TOKENS * width)

    def context_of(self, image_features: Tensor) -> Tensor:
        """The context of images of one domain: [tokens, width]."""
        is_training = torch.is_grad_enabled()
        hidden = F.relu(F.dropout(self.first(image_features), DROPOUT, is_training))
        hidden = F.relu(F.dropout(self.second(hidden), DROPOUT, is_training))
        vectors: Tensor = self.last(hidden).mean(dim=0)
        return vectors.reshape(NUM_TOKENS, -1)

    def class_embeddings_of(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Tensor
    ) -> Tensor:
        return embed_with_context(text_encoder, class_names, self.context_of(image_features))

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], class_names: Sequence[str], logit_scale: float) -> DomainContext:
        learned = cls(weights["first.weight"].shape[1], len(weights["last.weight"]) // NUM_TOKENS)
        learned.load_state_dict(dict(weights))
        return learned


class Dpl(PromptLearning):
    """Learns a `DomainContext`."""

    by_domain = True
    needs_whole_batch = True

    @staticmethod
    def begin(text_encoder: TextEncoder, dim: int) -> DomainContext:
        return DomainContext(dim, text_encoder.token_width)
