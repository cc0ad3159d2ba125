"""A model on a dataset that it was not trained on, among that dataset's own classes (dataset shift).

A trainer measures those that lie among its inputs; a finished model can be asked about any other afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from alignclip_core.classifier import BATCH_SIZE, Classifier
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.listing import read_staged
from alignclip_core.dataset.samples import DatasetLayout, Sample
from alignclip_core.dataset.splits import TEST_DATASETS, EvaluationGroup, Split
from alignclip_core.encoder import TextEncoder, build_text_encoder
from alignclip_core.evaluation import Evaluation, evaluate
from alignclip_core.finished_model import FinishedModel
from alignclip_core.images import DEFAULT_LIMITS, decode_image
from alignclip_core.method.losses import class_logits
from alignclip_core.prompts import class_similarity_of, embed_classes
from alignclip_core.run_dir import TEST_PREFIX
from alignclip_core.tower_evaluation import OtherDataset


def make_other_dataset(
    name: str,
    layout: DatasetLayout,
    given_names: Mapping[str, str] | None,
    config: FinetuneConfig,
    text_encoder: TextEncoder,
) -> OtherDataset:
    """What a trainer measures on all images of one of its test datasets, in the group of that name.

    `given_names`: folder name to the words for it, where these differ. Raises `DatasetInvalid`.
    """
    names = resolve_class_names(layout, given_names)
    samples = tuple(replace(sample, source=f"{TEST_PREFIX}{name}") for sample in layout.samples)
    return OtherDataset(
        Split(samples, (), (), (_everything(name, samples, names),)),
        replace(config, class_names=names, unseen_classes=(), test_domains=()),
        class_similarity_of(text_encoder, tuple(names.values()), config.templates, config.hyphens_to_spaces),
    )


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

    everything = _everything(folder.name, layout.samples, names)
    features = torch.cat([classifier.image_features(pictures) for pictures in _batches(folder, layout.samples)])
    found = evaluate(features, layout.samples, [everything], embeddings, tuple(names), model.logit_scale, logits_of)
    return found[TEST_DATASETS][folder.name]


def _everything(name: str, samples: Sequence[Sample], class_names: Mapping[str, str]) -> EvaluationGroup:
    return EvaluationGroup(TEST_DATASETS, name, tuple(range(len(samples))), tuple(class_names))


def _batches(folder: Path, samples: Sequence[Sample]) -> Iterator[list[Image.Image]]:
    for start in range(0, len(samples), BATCH_SIZE):
        yield [decode_image(read_sample(folder, sample, DEFAULT_LIMITS)) for sample in samples[start:][:BATCH_SIZE]]
