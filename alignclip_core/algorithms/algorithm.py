"""What every algorithm is to the trainer: losses of a batch, and what it trains beside the image tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from alignclip_core.algorithms.learned_classes import LearnedClasses
from alignclip_core.config import FinetuneConfig
from alignclip_core.encoder import ImageEncoder, TextEncoder
from alignclip_core.method.losses import Losses
from alignclip_core.run_dir import ClassSimilarity


class StepOutput(NamedTuple):
    """What one forward pass gives the trainer."""

    losses: Losses
    num_correct: Int[Tensor, ""]  # images whose likeliest class is their own


class Algorithm(nn.Module):
    """Image tower and losses in one module.

    A child implements `forward(images, labels, domains)`, and puts what it learns beside the tower into `learned`:
    under "classes" what takes the place of the class embeddings, also in the finished model.
    """

    learned_rate: ClassVar[float] = 1.0  # the learning rate of `learned`, as a multiple of the config's
    needs_whole_batch: ClassVar[bool] = False  # its loss is no mean over images, so a batch cannot come in parts
    class_embeddings: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        similarity: ClassSimilarity,
        config: FinetuneConfig,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = config
        self.text_encoder = text_encoder
        self.logit_scale = config.logit_scale or encoder.logit_scale
        self.learned = nn.ModuleDict()
        self.trained_rows = [row for row, name in enumerate(config.class_names) if name not in config.unseen_classes]
        embeddings = torch.from_numpy(similarity.class_embeddings[self.trained_rows])
        self.register_buffer("class_embeddings", embeddings.to(self.device), persistent=False)

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def trained_labels(self) -> list[str]:
        """Display names of the trained classes, in the order in which labels count them."""
        return [self.config.class_names[name] for name in self.config.trained_classes]

    @property
    def learned_parameters(self) -> dict[str, nn.Parameter]:
        """What is trained beside the tower, by its name in averages, checkpoints and models."""
        return {f"learned.{name}": value for name, value in self.learned.named_parameters()}

    @property
    def learned_classes(self) -> LearnedClasses | None:
        """What the finished model uses in place of the text tower's class embeddings; None: it uses those."""
        classes = dict(self.learned.items()).get("classes")
        assert classes is None or isinstance(classes, LearnedClasses)
        return classes

    def logits(self, image_features: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch classes"]:
        """Of the trained classes, by the text head or by what is learned in its place."""
        classes = self.learned_classes
        if classes is None:
            return self.logit_scale * image_features @ self.class_embeddings.T
        return classes.logits(self.text_encoder, self.trained_labels, image_features, self.logit_scale)


def cross_entropy_output(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], penalty: Tensor | None = None
) -> StepOutput:
    """Cross entropy, and beside it what an algorithm adds to it."""
    smoothing = nn.functional.cross_entropy(logits.float(), labels)
    nothing = torch.zeros_like(smoothing.detach())
    total = smoothing if penalty is None else smoothing + penalty
    losses = Losses(total=total, smoothing=smoothing, layer_alignment=nothing, similarity_alignment=nothing)
    return StepOutput(losses, (logits.detach().argmax(dim=1) == labels).sum())


def places_by_domain(domains: Int[Tensor, " batch"]) -> Sequence[Int[Tensor, " images"]]:
    """The places in a batch of each domain's images."""
    return [torch.nonzero(domains == domain).flatten() for domain in domains.unique().tolist()]
