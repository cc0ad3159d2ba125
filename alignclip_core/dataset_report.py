"""The whole report on a dataset: files, pixels, splits, and what the base model says of names and labels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from alignclip_core.classifier import Classifier
from alignclip_core.config import FinetuneConfig, make_config
from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.findings import Finding
from alignclip_core.dataset.fingerprint import fingerprint
from alignclip_core.dataset.listing import DatasetFolder
from alignclip_core.dataset.looks import Folder, OnProgress, look_at_dataset, look_at_validation, shuffled
from alignclip_core.dataset.report import count_images, find_faults, sizes_of
from alignclip_core.dataset.samples import DatasetLayout, Sample
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.encoder import build_text_encoder
from alignclip_core.errors import DatasetInvalid
from alignclip_core.finished_model import FinishedModel
from alignclip_core.images import DEFAULT_LIMITS, Decode, ImageLimits, decode_image
from alignclip_core.label_doubts import find_alike_names, find_doubted_labels, judge_labels
from alignclip_core.method.similarity import class_similarity
from alignclip_core.prompts import embed_classes

BATCH_SIZE = 32
DECIMALS = 4  # of a similarity
MAX_COMPARED = 1000  # images that the base model looks at

ImageFeatures = Callable[[Sequence[Image.Image]], Tensor]  # RGB pictures -> features of unit length [images, dim]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The base model as far as the report needs it."""

    class_embeddings: Float[Tensor, "classes dim"]  # of the config's classes, in their order
    image_features: ImageFeatures
    logit_scale: float


def report_dataset(
    root: Path,
    layout: DatasetLayout,
    config: FinetuneConfig,
    judge: Judge,
    *,
    validation: Folder | None = None,
    max_images: int | None = None,
    max_seconds: float = math.inf,
    limits: ImageLimits = DEFAULT_LIMITS,
    decode: Decode = decode_image,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """The report as JSON. `root` holds the images, at least those that `checked_samples` names.

    The split is the one that a job of this config would make, with the `validation` set that it would be given. What is
    seen in `max_seconds` of decoding, and as many of comparing, is reported. Raises `DatasetInvalid` when no job could
    be made.
    """
    split = split_dataset(layout, config, validation[1] if validation else None)
    until = time.monotonic() + max_seconds
    own, own_bad = look_at_dataset(root, layout, max_images, limits, partial(on_progress, "decoding"), until, decode)
    given, given_bad = look_at_validation(validation, max_images, limits, on_progress, until, decode)
    looks, bad = [*own, *given], [*own_bad, *given_bad]
    good = {look.path for look in own}
    readable = [sample for sample in layout.samples if sample.path in good]
    display_names = list(config.class_names.values())
    cosine = class_similarity(judge.class_embeddings)
    compared, features = _compare(root, readable, judge, limits, decode, partial(on_progress, "comparing"), max_seconds)
    findings = [
        *find_faults(layout, split, config, looks, bad),
        *find_alike_names(display_names, cosine),
        *_doubted_labels(compared, features, config, judge),
    ]
    whole = len(readable) == len(layout.samples)
    return {
        "fingerprint": fingerprint(readable, {look.path: look.sha256 for look in own}) if whole else None,
        **count_images(layout, split, config.class_names),
        "num_checked": len(own) + len(own_bad),
        "num_compared": len(compared),
        "sizes": sizes_of(looks),
        "findings": [finding.to_json() for finding in sorted(findings, key=lambda each: each.severity)],
        "similarity": {
            "labels": display_names,
            "matrix": [[round(value, DECIMALS) for value in row] for row in cosine.tolist()],
        },
    }


def refused_report(error: DatasetInvalid) -> dict[str, Any]:
    """The report on a dataset of which no job can be made: the reason, and nothing to count."""
    finding = Finding(
        code=error.code, severity="fatal", message=error.message, hint="A job is refused with the same words."
    )
    return {
        "fingerprint": None,
        "num_images": 0,
        "num_checked": 0,
        "num_compared": 0,
        **{name: [] for name in ("classes", "domains", "splits")},
        "sizes": {},
        "findings": [finding.to_json()],
        "similarity": {"labels": [], "matrix": []},
    }


def report_folder(
    model: FinishedModel,
    dataset: DatasetFolder,
    given: Mapping[str, Any],
    *,
    validation: DatasetFolder | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> dict[str, Any]:
    """The report on a folder of our own; `given`: fields of the config that a job would get, class names among them."""
    fields = dict(given)
    try:
        layout = dataset.read()
        held_out = (validation.folder, validation.read(min_classes=1)) if validation else None
        names = resolve_class_names(layout, fields.pop("class_names", None))
        config = make_config(model.base_model, class_names=names, given=fields)
        judge = make_judge(model, config)
        return report_dataset(dataset.folder, layout, config, judge, validation=held_out, on_progress=on_progress)
    except DatasetInvalid as error:
        return refused_report(error)


def make_judge(model: FinishedModel, config: FinetuneConfig) -> Judge:
    """The judge that a loaded base model is."""
    classifier = Classifier.of(model)
    names = tuple(config.class_names.values())
    embeddings = embed_classes(build_text_encoder(model.base_model), names, config.templates, config.hyphens_to_spaces)
    return Judge(
        class_embeddings=embeddings, image_features=classifier.image_features, logit_scale=classifier.logit_scale
    )


def _compare(
    root: Path,
    samples: Sequence[Sample],
    judge: Judge,
    limits: ImageLimits,
    decode: Decode,
    on_progress: Callable[[int, int], None],
    max_seconds: float,
) -> tuple[Sequence[Sample], Tensor]:
    """Image features of as many images as the base model may look at, in an order that favours no class."""
    ordered = shuffled(samples)[:MAX_COMPARED]
    until = time.monotonic() + max_seconds
    features: list[Tensor] = []
    for start in range(0, len(ordered), BATCH_SIZE):
        batch = ordered[start : start + BATCH_SIZE]
        pictures = [decode(read_sample(root, sample, limits), limits) for sample in batch]
        features.append(judge.image_features(pictures).float().cpu())
        on_progress(start + len(batch), len(ordered))
        if time.monotonic() > until:
            break
    num_compared = sum(len(each) for each in features)
    return ordered[:num_compared], torch.cat(features) if features else torch.zeros(0, judge.class_embeddings.shape[1])


def _doubted_labels(
    compared: Sequence[Sample], features: Tensor, config: FinetuneConfig, judge: Judge
) -> list[Finding]:
    if not compared:
        return []
    rows = {name: row for row, name in enumerate(config.class_names)}
    labels = torch.tensor([rows[sample.class_name] for sample in compared])
    zero_shot = torch.softmax(judge.logit_scale * features @ judge.class_embeddings.float().cpu().T, dim=1)
    return find_doubted_labels(
        [sample.path for sample in compared],
        labels,
        judge_labels(zero_shot, features, labels),
        list(config.class_names.values()),
    )
