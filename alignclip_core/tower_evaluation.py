"""What given weights of a tower say of a split's images: accuracy of each group, where it looks, how sure it may be."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from alignclip_core.algorithms import Algorithm
from alignclip_core.calibration import MIN_IMAGES, Calibration, calibrate
from alignclip_core.checkpoint import LEARNED
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.layout import Sample
from alignclip_core.dataset.splits import EvaluationGroup, Split
from alignclip_core.encoder import TrainedTower
from alignclip_core.errors import TrainingDiverged
from alignclip_core.evaluation import (
    SOURCE_VALIDATION,
    Evaluation,
    Evaluations,
    LogitsOf,
    encode_images,
    evaluate,
    evaluated_indices,
    logits_by_domain,
    without_details,
)
from alignclip_core.images import ImageLimits
from alignclip_core.loading import iterate_evaluation, load_masks
from alignclip_core.method.losses import class_logits
from alignclip_core.misalignment import MAX_IMAGES, AttentionMisalignment, Divergences, mean_divergences
from alignclip_core.pixels import normalise
from alignclip_core.ranks import Ranks
from alignclip_core.run_dir import ClassSimilarity

BATCH_SIZE = 32

AfterBatch = Callable[[], None]  # may raise to end an evaluation
Weights = Mapping[str, Tensor]  # all that training changes, of the tower and beside it


@dataclass(frozen=True)
class OtherDataset:
    """A dataset that is measured beside the one that trains, among its own classes."""

    split: Split  # nothing of it trains
    config: FinetuneConfig  # the run's, but for the classes
    similarity: ClassSimilarity  # of its own classes


class TowerEvaluation:
    """The same tower and images for any weights: those of now, an average, those before training."""

    def __init__(
        self,
        tower: TrainedTower,
        algorithm: Algorithm,
        similarity: ClassSimilarity,
        split: Split,
        config: FinetuneConfig,
        *,
        inputs: Path,
        limits: ImageLimits,
        ranks: Ranks,
        num_threads: int,
        autocast: Callable[[], AbstractContextManager[Any]],
        diverged: Callable[[str], TrainingDiverged],
    ) -> None:
        """`diverged` makes the error that says what is not finite."""
        self._tower, self._algorithm, self.split, self._config = tower, algorithm, split, config
        self._inputs, self._limits, self._ranks, self._num_threads = inputs, limits, ranks, num_threads
        self._autocast, self._diverged = autocast, diverged
        self._encoder = tower.plain
        self._device = next(tower.encoder.parameters()).device  # the plain tower may have shapes alone
        self._class_embeddings = torch.from_numpy(similarity.class_embeddings)
        self._logit_scale = config.logit_scale or tower.plain.logit_scale

    @property
    def has_source_validation(self) -> bool:
        """Whether images are held out of the classes and domains that train."""
        return bool(self._groups_at(SOURCE_VALIDATION))

    def evaluate_source_validation(
        self, weights: Weights, max_images: int | None, after_batch: AfterBatch
    ) -> Evaluation:
        """On the validation images, or an even sample of them; the numbers alone."""
        domains, classes = SOURCE_VALIDATION
        groups = [
            replace(group, indices=_even_sample(group.indices, max_images))
            for group in self._groups_at(SOURCE_VALIDATION)
        ]
        return without_details(self.evaluate(groups, weights, after_batch)[domains][classes])

    def evaluate_whole(self, weights: Weights, after_batch: AfterBatch, *, by_texts: bool = False) -> Evaluations:
        """Every group; source validation says where the tower looks, too.

        `by_texts`: by the class texts, whatever the algorithm learns in their place.
        """
        if not self.split.groups:
            return {}
        found = self.evaluate(self.split.groups, weights, after_batch, by_texts=by_texts)
        domains, classes = SOURCE_VALIDATION
        if classes in found.get(domains, {}):
            found[domains][classes]["attention"] = self._attention_misalignment(weights, after_batch)
        return found

    def evaluate(
        self, groups: Sequence[EvaluationGroup], weights: Weights, after_batch: AfterBatch, *, by_texts: bool = False
    ) -> Evaluations:
        """One evaluation for each group. Raises `TrainingDiverged` when the image features are not finite."""
        return evaluate(
            self._encode(groups, weights, after_batch),
            self.split.samples,
            groups,
            self._class_embeddings,
            tuple(self._config.class_names),
            self._logit_scale,
            None if by_texts else self._logits_of(weights),
        )

    def calibrate(self, weights: Weights, after_batch: AfterBatch) -> Calibration | None:
        """On source validation; images of unseen classes in the same domains are the unknown."""
        known = self._groups_at(SOURCE_VALIDATION)
        unknown = self._groups_at((SOURCE_VALIDATION[0], "unseen_classes"))
        if not self._config.calibrate or not known or len(known[0].indices) < MIN_IMAGES:
            return None
        classes = known[0].label_space
        labels = torch.tensor([classes.index(self.split.samples[index].class_name) for index in known[0].indices])
        logits = self._trained_logits(known[0], classes, weights, after_batch)
        others = self._trained_logits(unknown[0], classes, weights, after_batch) if unknown else None
        return calibrate(logits, labels, others)

    def plain_weights(self, weights: Weights) -> dict[str, Tensor]:
        """Those of the whole tower."""
        tower = {name: value.detach() for name, value in weights.items() if not name.startswith("learned.")}
        return self._tower.untouched() | tower

    def _groups_at(self, place: tuple[str, str]) -> list[EvaluationGroup]:
        return [group for group in self.split.groups if (group.domains, group.classes) == place]

    def _encode(self, groups: Sequence[EvaluationGroup], weights: Weights, after_batch: AfterBatch) -> Tensor:
        """Image features of the groups' images, one row for each of `evaluated_indices`."""
        parameters = self.plain_weights(weights)

        def encode(images: Tensor) -> Tensor:
            with self._autocast():
                normalised = normalise(images.to(self._device), self._encoder.preprocess)
                return functional_call(self._encoder, parameters, (normalised,))  # type: ignore[no-any-return]

        samples = self.split.samples
        indices = evaluated_indices(groups)
        is_shared = len(indices) >= self._ranks.num_ranks
        places = self._ranks.share(len(indices)) if is_shared else range(len(indices))
        images = self.images([samples[indices[place]] for place in places])
        features = encode_images(encode, images, after_batch)
        if is_shared:
            features = self._ranks.gather_rows(features, len(indices))
        if not torch.isfinite(features).all():
            raise self._diverged("the image features")
        return features

    def images(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        """Batches of these images as they are evaluated, not yet normalised."""
        return iterate_evaluation(
            self._inputs, samples, self._encoder.preprocess, self._limits, BATCH_SIZE, self._num_threads
        )

    def _trained_logits(
        self, group: EvaluationGroup, classes: Sequence[str], weights: Weights, after_batch: AfterBatch
    ) -> Tensor:
        """Of a group's images among these classes."""
        features = self._encode([group], weights, after_batch)
        rows = {index: row for row, index in enumerate(evaluated_indices([group]))}
        features = features[[rows[index] for index in group.indices]]
        samples = [self.split.samples[index] for index in group.indices]
        return logits_by_domain(features, samples, classes, self._logits_of(weights) or self._logits_by_texts)

    def _logits_by_texts(self, features: Tensor, classes: Sequence[str]) -> Tensor:
        rows = [tuple(self._config.class_names).index(name) for name in classes]
        return class_logits(features, self._class_embeddings[rows], self._logit_scale)

    def _logits_of(self, weights: Weights) -> LogitsOf | None:
        """How these weights classify, if not by the class texts."""
        classes = self._algorithm.learned_classes
        if classes is None:
            return None
        frozen = copy.deepcopy(classes).requires_grad_(False)
        frozen.load_state_dict(
            {name.removeprefix(LEARNED): value for name, value in weights.items() if name.startswith(LEARNED)}
        )

        @torch.no_grad()
        def logits_of(features: Tensor, classes: Sequence[str]) -> Tensor:
            names = [self._config.class_names[name] for name in classes]
            if not frozen.knows(names):
                return self._logits_by_texts(features, classes)
            features = features.to(self._device)
            return frozen.logits(self._algorithm.text_encoder, names, features, self._logit_scale)

        return logits_of

    def _attention_misalignment(self, weights: Weights, after_batch: AfterBatch) -> dict[str, Any]:
        """Over an even sample of the source validation images."""
        samples = [self.split.samples[index] for index in _even_sample(self.split.validation, MAX_IMAGES)]
        rows = {name: row for row, name in enumerate(self._config.class_names)}
        texts = self._class_embeddings[[rows[sample.class_name] for sample in samples]].to(self._device)
        looking = AttentionMisalignment(self._encoder, self._config)
        parameters = {f"encoder.{name}": value for name, value in self.plain_weights(weights).items()}
        masks = load_masks(self._inputs, samples, self._encoder.preprocess, self._limits)
        divergences: list[Divergences] = []
        for images in self.images(samples):
            done = sum(len(batch.attention) for batch in divergences)
            with self._autocast():
                normalised = normalise(images.to(self._device), self._encoder.preprocess)
                until = done + len(images)
                own_masks = None if masks is None else masks[done:until].to(self._device)
                divergences.append(functional_call(looking, parameters, (normalised, texts[done:until], own_masks)))
            after_batch()
        return mean_divergences(divergences)


def _even_sample(indices: tuple[int, ...], max_images: int | None) -> tuple[int, ...]:
    """Evenly spaced, so that every class and domain keeps its share: samples are sorted by folder."""
    if max_images is None or len(indices) <= max_images:
        return indices
    return tuple(indices[place * len(indices) // max_images] for place in range(max_images))
