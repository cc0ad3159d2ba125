"""AlignCLIP, and every baseline that it becomes when the config switches its terms off."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alignclip_core.algorithms.algorithm import Algorithm, StepOutput
from alignclip_core.config import FinetuneConfig
from alignclip_core.method.losses import Losses, frozen_distance, total_loss
from alignclip_core.method.similarity import (
    calibrated_scale,
    normalised_similarity,
    smoothed_targets,
    uniform_similarity,
)
from alignclip_core.run_dir import ClassSimilarity


class AlignClip(Algorithm):
    """The paper's losses with the text head."""

    similarity: Tensor

    def __init__(self, encoder: Any, similarity: ClassSimilarity, config: FinetuneConfig, *others: Any) -> None:
        super().__init__(encoder, similarity, config, *others)
        # Dropping it is the authors' form of targets from similarities; plain label smoothing has only one form.
        self.keep_diagonal = config.keep_diagonal or config.smoothing_target == "uniform"
        cosine = torch.from_numpy(similarity.cosine[self.trained_rows][:, self.trained_rows])
        self.register_buffer("similarity", _target_similarity(cosine, config).to(self.device), persistent=False)
        if config.frozen_distance_weight:
            self.frozen = copy.deepcopy(encoder).requires_grad_(False)

    def forward(
        self,
        images: Float[Tensor, "batch 3 size size"],
        labels: Int[Tensor, " batch"],
        domains: Int[Tensor, " batch"] | None = None,
    ) -> StepOutput:
        """Losses of a batch; `labels` count the trained classes in the order of `config.trained_classes`."""
        aligned = self.encoder.forward_aligned(images, self.config)
        losses = total_loss(
            image_features=aligned.image_features,
            log_cls_attention=aligned.log_cls_attention,
            patch_features=aligned.patch_features,
            dv_patch_features=aligned.dv_patch_features,
            class_embeddings=self.class_embeddings,
            targets=smoothed_targets(labels, self.similarity, self.config.smoothing, self.keep_diagonal),
            labels=labels,
            logit_scale=self.logit_scale,
            config=self.config,
        )
        if self.config.frozen_distance_weight:
            losses = self._held_back(losses, images, aligned.image_features)
        return StepOutput(losses, self._num_correct(aligned.image_features, labels))

    def _held_back(self, losses: Losses, images: Tensor, image_features: Tensor) -> Losses:
        """With the distance from the pre-trained tower."""
        with torch.no_grad():
            frozen_features = self.frozen(images)
        distance = frozen_distance(image_features, frozen_features)
        return replace(losses, total=losses.total + self.config.frozen_distance_weight * distance)

    @torch.no_grad()
    def _num_correct(self, image_features: Tensor, labels: Tensor) -> Tensor:
        """Without the margin, as the finished model classifies."""
        return ((image_features @ self.class_embeddings.T).argmax(dim=1) == labels).sum()


def _target_similarity(cosine: Tensor, config: FinetuneConfig) -> Tensor:
    if config.smoothing_target == "uniform":
        return uniform_similarity(cosine.shape[0])
    scale = calibrated_scale(cosine) if config.similarity_scale == "calibrated" else config.similarity_scale
    return normalised_similarity(cosine, scale, config.keep_diagonal)
