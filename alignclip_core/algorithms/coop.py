"""CoOp (Zhou et al. 2022): one learned context, the same for every image and class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from alignclip_core.algorithms.learned_classes import LearnedClasses, embed_with_context
from alignclip_core.algorithms.prompt_learning import CONTEXT_WORDS, PromptLearning
from alignclip_core.encoder import TextEncoder


class SharedContext(LearnedClasses):
    """Vectors in the places of the words before the name."""

    def __init__(self, context: Tensor) -> None:
        super().__init__()
        self.context = nn.Parameter(context)

    def class_embeddings_of(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Tensor
    ) -> Tensor:
        return embed_with_context(text_encoder, class_names, self.context)

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], class_names: Sequence[str], logit_scale: float) -> SharedContext:
        return cls(weights["context"])


class CoOp(PromptLearning):
    """Learns a `SharedContext` from the words "a photo of a" on."""

    @staticmethod
    def begin(text_encoder: TextEncoder, dim: int) -> SharedContext:
        return SharedContext(text_encoder.embed_words(CONTEXT_WORDS))
