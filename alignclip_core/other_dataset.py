"""A finished model on a dataset that it was not trained on, among that dataset's own classes (dataset shift)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from alignclip_core.classifier import BATCH_SIZE, Classifier
from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.listing import read_staged
from alignclip_core.dataset.samples import Sample
from alignclip_core.dataset.splits import EvaluationGroup
from alignclip_core.encoder import build_text_encoder
from alignclip_core.evaluation import Evaluation, evaluate
from alignclip_core.finished_model import FinishedModel
from alignclip_core.images import DEFAULT_LIMITS, decode_image
from alignclip_core.method.losses import class_logits
from alignclip_core.prompts import embed_classes

GROUP = ("test_domains", "trained_classes")


def evaluate_on_dataset(model: FinishedModel, folder: Path, given_names: Mapping[str, str] | None = None) -> Evaluation:
    """One evaluation over all images of a dataset's folder, or those of the list beside it, as a run's inputs have it.

    `given_names`: folder name to the words for it, where these differ. Raises `DatasetInvalid` and `ImageRejected`.
    """
    layout = read_staged(folder)
    names = resolve_class_names(layout, given_names)
    classifier = Classifier.of(model)
    text_encoder = build_text_encoder(model.base_model)
    embeddings = embed_classes(text_encoder, tuple(names.values()), model.templates, model.hyphens_to_spaces)

    def logits_of(features: torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
        labels = [names[name] for name in classes]
        own = model.class_embeddings_of(text_encoder, labels, image_features=features)
        return class_logits(features, own, model.logit_scale)

    everything = EvaluationGroup(*GROUP, tuple(range(len(layout.samples))), tuple(names))
    features = torch.cat([classifier.image_features(pictures) for pictures in _batches(folder, layout.samples)])
    found = evaluate(features, layout.samples, [everything], embeddings, tuple(names), model.logit_scale, logits_of)
    return found[GROUP[0]][GROUP[1]]


def _batches(folder: Path, samples: Sequence[Sample]) -> Iterator[list[Image.Image]]:
    for start in range(0, len(samples), BATCH_SIZE):
        yield [decode_image(read_sample(folder, sample, DEFAULT_LIMITS)) for sample in samples[start:][:BATCH_SIZE]]
