"""Images and labels -> predictions: features, calibrated scores, the best labels. Runs in a thread."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignclip_core.algorithms import LearnedClasses
from alignclip_core.classifier import Classifier, can_reject, check_labels, predictions
from alignclip_core.errors import LabelsInvalid
from alignclip_core.method.losses import class_logits
from alignclip_core.prompts import readable_name
from alignclip_store.settings import Settings
from api.answers import ClassifyAnswer, ImagePredictions, PredictionAnswer
from api.classify_forms import DEFAULT_TOP_K, ClassifyRequest, ScoreFunction
from api.errors import RequestInvalid
from api.image_features import compute_features
from api.resources import Resources
from api.served_models import DescribedModel, load_model


@dataclass(frozen=True, eq=False)
class Question:
    """A loaded model and what it is asked."""

    model: DescribedModel
    classifier: Classifier
    labels: tuple[str, ...]
    class_embeddings: Tensor | LearnedClasses  # what was learned may look at the images first


def classify(resources: Resources, owner: str, name: str, request: ClassifyRequest) -> ClassifyAnswer:
    """The best labels of every image, and those of a second model where one is to be compared.

    Raises for labels, images and models that cannot be used.
    """
    names = [each for each in (name, request.compare_with) if each is not None]
    questions = [_prepare(resources, owner, each, request) for each in names]
    answers = [
        _answer(resources, question, compute_features(resources, question.classifier, request.images), request)
        for question in questions
    ]
    return answers[0].model_copy(update={"compared": answers[1] if len(answers) > 1 else None})


def _prepare(resources: Resources, owner: str, name: str, request: ClassifyRequest) -> Question:
    model, classifier = load_model(resources, owner, name)
    labels = labels_of(request, model, resources.settings)
    learned = classifier.learned_classes
    if learned is not None and learned.knows(labels):
        return Question(model, classifier, labels, learned)
    return Question(model, classifier, labels, model.class_embeddings(resources, labels, request.templates))


def _answer(resources: Resources, question: Question, features: Tensor, request: ClassifyRequest) -> ClassifyAnswer:
    model, labels, embeddings = question.model, question.labels, question.class_embeddings
    if isinstance(embeddings, LearnedClasses):
        embeddings = model.learned_embeddings(resources, embeddings, labels, features)
    classifier = question.classifier
    calibration = classifier.calibration if request.calibrated and request.score_function == "softmax" else None
    if calibration is not None:
        scores = classifier.probabilities(features, embeddings)
    else:
        scores = _scores(class_logits(features, embeddings, classifier.logit_scale), request.score_function)
    rejected: list[bool | None] = [None] * len(request.images)
    if can_reject(calibration, labels, model.own_labels or ()):
        rejected = classifier.rejected(scores).tolist()
    top_k = request.top_k or (DEFAULT_TOP_K if request.labels is None else None)
    data = [
        ImagePredictions(
            index=index,
            filename=source.filename,
            predictions=[PredictionAnswer(label=best.label, score=best.score) for best in ranked],
            rejected=rejected[index],
        )
        for index, (source, ranked) in enumerate(zip(request.images, predictions(scores, labels, top_k), strict=True))
    ]
    return ClassifyAnswer(model=model.id, calibrated=calibration is not None, data=data)


def labels_of(request: ClassifyRequest, model: DescribedModel, settings: Settings) -> tuple[str, ...]:
    """Those that the request names, else the model's own. Raises `RequestInvalid` and `LabelsInvalid`."""
    param = request.labels_param
    if request.labels is None:
        if model.own_labels is None:
            raise RequestInvalid(
                f"{model.id!r} has no classes of its own; name at least two in {param!r}.", param=param
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


def _scores(logits: Tensor, function: ScoreFunction) -> Tensor:
    if function == "softmax":
        return torch.softmax(logits, dim=1)
    return torch.sigmoid(logits) if function == "sigmoid" else logits
