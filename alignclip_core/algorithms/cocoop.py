"""CoCoOp (Zhou et al. 2022): CoOp's context plus a shift that a small network makes of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.algorithms.learned_classes import LearnedClasses, embed_with_context
from alignclip_core.algorithms.prompt_learning import CONTEXT_WORDS, PromptLearning
from alignclip_core.encoder import TextEncoder

REDUCTION = 16  # how much narrower the meta-net is than the features
IMAGES_A_PASS = 16  # each asks for prompts of its own


class ConditionedContext(LearnedClasses):
    """A context and its meta-net: features -> features / 16 -> a shift of every context vector."""

    def __init__(self, context: Tensor, dim: int) -> None:
        super().__init__()
        self.context = nn.Parameter(context)
        self.down = nn.Linear(dim, max(dim // REDUCTION, 1))
        self.up = nn.Linear(self.down.out_features, context.shape[1])

    def context_of(self, image_features: Tensor) -> Tensor:
        """The context of each image: [images, tokens, width]."""
        shift: Tensor = self.up(F.relu(self.down(image_features)))
        return self.context + shift[:, None]

    def class_embeddings_of(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Tensor
    ) -> Tensor:
        return embed_with_context(text_encoder, class_names, self.context_of(image_features))

    def logits(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Tensor, logit_scale: float
    ) -> Tensor:
        logits_of_part = super().logits
        parts = image_features.split(IMAGES_A_PASS)
        return torch.cat([logits_of_part(text_encoder, class_names, part, logit_scale) for part in parts])

    @classmethod
    def of_weights(
        cls, weights: Mapping[str, Tensor], class_names: Sequence[str], logit_scale: float
    ) -> ConditionedContext:
        learned = cls(weights["context"], weights["down.weight"].shape[1])
        learned.load_state_dict(dict(weights))
        return learned


class CoCoOp(PromptLearning):
    """Learns a `ConditionedContext` from the words "a photo of a" on."""

    @staticmethod
    def begin(text_encoder: TextEncoder, dim: int) -> ConditionedContext:
        return ConditionedContext(text_encoder.embed_words(CONTEXT_WORDS), dim)
