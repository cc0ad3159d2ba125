"""Images and labels -> predictions: decode, features, scores. Runs in a thread, never on the event loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from alignclip_core.base_models import BaseModel
from alignclip_core.classifier import Classifier, check_labels, predictions
from alignclip_core.errors import ImageRejected, LabelsInvalid
from alignclip_core.images import ImageLimits, decode_image
from alignclip_core.prompts import readable_name
from alignclip_store import models
from alignclip_store.database import reading
from alignclip_store.settings import Settings
from api.answers import ImagePredictions, PredictionAnswer
from api.classify_forms import DEFAULT_TOP_K, ClassifyRequest, ImageSource, ScoreFunction
from api.errors import RequestInvalid
from api.resources import Resources

MAX_BATCH_IMAGES = 32
MAX_BATCH_PIXELS = 64_000_000  # decoded pictures that are held at once: about 200 MB


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with what it says of itself."""

    classifier: Classifier
    base_model: BaseModel
    own_labels: tuple[str, ...] | None  # a base model has no classes of its own
    templates: tuple[str, ...]
    hyphens_to_spaces: bool = False


def classify(resources: Resources, owner: str, model_id: str, request: ClassifyRequest) -> list[ImagePredictions]:
    """The best labels of every image. Raises for labels, images and models that cannot be used."""
    model = load_model(resources, owner, model_id)
    labels = _labels(request, model, resources.settings)
    embeddings = resources.models.class_embeddings(
        model.base_model, labels, request.templates or model.templates, hyphens_to_spaces=model.hyphens_to_spaces
    )
    features = torch.cat(
        [model.classifier.image_features(batch) for batch in _batches(request.images, _limits(resources.settings))]
    )
    scores = _scores(model.classifier.logit_scale * features @ embeddings.T, request.score_function)
    top_k = request.top_k or (DEFAULT_TOP_K if request.labels is None else None)
    return [
        ImagePredictions(
            index=index,
            filename=source.filename,
            predictions=[PredictionAnswer(label=best.label, score=best.score) for best in ranked],
        )
        for index, (source, ranked) in enumerate(zip(request.images, predictions(scores, labels, top_k), strict=True))
    ]


def load_model(resources: Resources, owner: str, model_id: str) -> ServedModel:
    """A base model, or a tuned one of the owner's. Raises `ModelNotFound`."""
    card = resources.models.find_base_model(model_id)
    if card is not None:
        return ServedModel(resources.models.base_classifier(card), card, None, card.templates)
    with reading(resources.engine) as session:
        row = models.get_model(session, owner, model_id)
    manifest = row.manifest
    return ServedModel(
        classifier=resources.models.tuned_classifier(row),
        base_model=resources.models.base_model(row.base_model),
        own_labels=tuple(name for _, name in sorted(manifest["class_names"].items())),
        templates=tuple(manifest["templates"]),
        hyphens_to_spaces=manifest["config"]["hyphens_to_spaces"],
    )


def _labels(request: ClassifyRequest, model: ServedModel, settings: Settings) -> tuple[str, ...]:
    param = request.labels_param
    if request.labels is None:
        if model.own_labels is None:
            raise RequestInvalid(
                f"{model.base_model.id!r} has no classes of its own; name at least two in {param!r}.", param=param
            )
        return model.own_labels
    if len(request.labels) > settings.max_labels_per_request:
        raise RequestInvalid(
            f"{len(request.labels):,} labels; at most {settings.max_labels_per_request:,} are allowed.", param=param
        )
    try:
        check_labels(request.labels)
    except LabelsInvalid as error:
        raise LabelsInvalid(error.message, param=param) from error
    seen: dict[str, str] = {}
    for label in request.labels:
        other = seen.setdefault(readable_name(label, hyphens_to_spaces=model.hyphens_to_spaces), label)
        if other != label:
            raise LabelsInvalid(f"{other!r} and {label!r} are the same to the text tower; name one.", param=param)
    return request.labels


def _batches(sources: Sequence[ImageSource], limits: ImageLimits) -> Iterator[list[Image.Image]]:
    """Decoded pictures, few enough at a time that they fit in memory."""
    batch: list[Image.Image] = []
    num_pixels = 0
    for index, source in enumerate(sources):
        try:
            image = decode_image(source.read(), limits)
        except ImageRejected as error:
            where = f"Image {index} ({source.filename})" if len(sources) > 1 else source.filename
            raise ImageRejected(f"{where}: {error.message}", param=error.param or "image") from error
        batch.append(image)
        num_pixels += image.width * image.height
        if len(batch) == MAX_BATCH_IMAGES or num_pixels >= MAX_BATCH_PIXELS:
            yield batch
            batch, num_pixels = [], 0
    if batch:
        yield batch


def _scores(logits: Tensor, function: ScoreFunction) -> Tensor:
    if function == "softmax":
        return torch.softmax(logits, dim=1)
    return torch.sigmoid(logits) if function == "sigmoid" else logits


def _limits(settings: Settings) -> ImageLimits:
    return ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
