"""Class embeddings that are learned, by a linear head or by prompts: how they train, are stored and serve."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from alignclip_core.encoder import TextEncoder
from alignclip_core.method.losses import class_logits
from alignclip_core.prompts import readable_names


class LearnedClasses(nn.Module, ABC):
    """Gives class embeddings in place of the text tower's own."""

    def knows(self, class_names: Sequence[str]) -> bool:
        """Whether it can tell these classes apart. Prompts take any words; where not, the text head answers."""
        return True

    @abstractmethod
    def class_embeddings_of(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Float[Tensor, "images dim"]
    ) -> Float[Tensor, "*images classes dim"]:
        """One embedding a class, or one for each image and class, for images of one domain."""

    @torch.no_grad()
    def finished_embeddings_of(
        self, text_encoder: TextEncoder, class_names: Sequence[str], image_features: Float[Tensor, "images dim"]
    ) -> Float[Tensor, "*images classes dim"]:
        """The same once training is over: fp32 on the CPU, whatever device they are computed on."""
        device = next(self.parameters()).device
        return self.class_embeddings_of(text_encoder, class_names, image_features.to(device)).float().cpu()

    def logits(
        self,
        text_encoder: TextEncoder | None,
        class_names: Sequence[str],
        image_features: Float[Tensor, "images dim"],
        logit_scale: float,
    ) -> Float[Tensor, "images classes"]:
        """Scaled cosines of images of one domain with these classes."""
        return class_logits(
            image_features, self.class_embeddings_of(text_encoder, class_names, image_features), logit_scale
        )

    @classmethod
    @abstractmethod
    def of_weights(
        cls, weights: Mapping[str, Tensor], class_names: Sequence[str], logit_scale: float
    ) -> LearnedClasses:
        """What a model's folder keeps of it; `class_names`: the display names of the trained classes."""


class LinearHead(LearnedClasses):
    """A weight vector for each trained class, without bias, so that it is a scaled class embedding."""

    def __init__(self, weight: Tensor, class_names: Sequence[str], logit_scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.class_names = tuple(class_names)
        self.logit_scale = logit_scale

    def knows(self, class_names: Sequence[str]) -> bool:
        return set(class_names) <= set(self.class_names)

    def class_embeddings_of(
        self, text_encoder: TextEncoder | None, class_names: Sequence[str], image_features: Tensor
    ) -> Tensor:
        """Rows whose scaled product with the features is the head's own answer; they need not have unit length."""
        return self.weight[[self.class_names.index(name) for name in class_names]] / self.logit_scale

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], class_names: Sequence[str], logit_scale: float) -> LinearHead:
        return cls(weights["weight"], class_names, logit_scale)


def embed_with_context(
    text_encoder: TextEncoder | None, class_names: Sequence[str], context: Float[Tensor, "*images tokens width"]
) -> Float[Tensor, "*images classes dim"]:
    """Class embeddings of the prompts `[context] name.`: the mean over a class's words, at unit length."""
    assert text_encoder is not None  # the trainer and the service give one to whoever learns prompts
    words = [readable_names(name) for name in class_names]
    features = text_encoder.encode_with_context([word for of_class in words for word in of_class], context)
    means = [of_class.mean(dim=-2) for of_class in features.split([len(of_class) for of_class in words], dim=-2)]
    return F.normalize(torch.stack(means, dim=-2), dim=-1)
