"""Images and any labels -> probabilities, with a finished model, a checkpoint or the base model as it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from alignclip_core.algorithms import LearnedClasses
from alignclip_core.base_models import BaseModel
from alignclip_core.calibration import Calibration
from alignclip_core.errors import LabelsInvalid
from alignclip_core.finished_model import FinishedModel, load_base_model, load_finished_model
from alignclip_core.images import Preprocessing
from alignclip_core.method.losses import class_logits
from alignclip_core.pixels import prepare_image
from alignclip_core.runtimes.torch_tower import TorchTower
from alignclip_core.runtimes.towers import ImageTower

BATCH_SIZE = 32


@dataclass(frozen=True)
class Prediction:
    """A label and its probability among the labels that were asked for."""

    label: str
    score: float


class Classifier:
    """An image tower ready to serve. Open vocabulary: the class embeddings are an argument of `classify`."""

    def __init__(
        self,
        tower: ImageTower,
        preprocessing: Preprocessing,
        logit_scale: float,
        calibration: Calibration | None = None,
        learned_classes: LearnedClasses | None = None,
    ) -> None:
        self.tower = tower
        self.preprocessing = preprocessing
        self.logit_scale = logit_scale
        self.calibration = calibration
        self.learned_classes = learned_classes  # what gives class embeddings in place of class texts, if anything

    @classmethod
    def load(cls, folder: Path, base_model: BaseModel, device: str | torch.device = "cpu") -> Classifier:
        """The model of a folder that `save_model` or `save_checkpoint` wrote; its base gives the architecture.

        Raises `ArtifactCorrupt` when a hash or the base model does not fit.
        """
        return cls.of(load_finished_model(folder, base_model, device))

    @classmethod
    def from_base(cls, base_model: BaseModel, device: str | torch.device = "cpu") -> Classifier:
        """The base model, zero-shot."""
        return cls.of(load_base_model(base_model, device))

    @classmethod
    def of(cls, model: FinishedModel, tower: ImageTower | None = None) -> Classifier:
        """The classifier of a loaded model; `tower` runs it in place of torch in fp32."""
        return cls(
            tower or TorchTower(model.image_encoder),
            model.preprocessing,
            model.logit_scale,
            model.calibration,
            model.learned_classes,
        )

    @property
    def num_bytes(self) -> int:
        """Memory that the weights take."""
        return self.tower.num_bytes

    def image_features(self, images: Sequence[Image.Image]) -> Float[Tensor, "images dim"]:
        """Image features of unit length, fp32, on the CPU. The pictures are RGB, as `decode_image` returns them."""
        return torch.cat(
            [
                self.features(torch.stack([prepare_image(image, self.preprocessing) for image in batch]))
                for batch in (images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE))
            ]
        )

    def features(self, pixels: UInt8[Tensor, "images 3 size size"]) -> Float[Tensor, "images dim"]:
        """The same of images that `prepare_image` made, in one forward pass."""
        return self.tower(pixels)

    def classify(
        self, images: Sequence[Image.Image], class_embeddings: Float[Tensor, "classes dim"]
    ) -> Float[Tensor, "images classes"]:
        """Probability of each class for each image: softmax over logit_scale x cosine."""
        return self.probabilities(self.image_features(images), class_embeddings)

    def probabilities(
        self, image_features: Float[Tensor, "images dim"], class_embeddings: Float[Tensor, "*images classes dim"]
    ) -> Float[Tensor, "images classes"]:
        """What `classify` returns, of image features that are there already; calibrated, where the model is."""
        temperature = 1.0 if self.calibration is None else self.calibration.temperature
        return torch.softmax(
            class_logits(image_features, class_embeddings.float().cpu(), self.logit_scale / temperature), dim=1
        )

    def rejected(self, probabilities: Float[Tensor, "images classes"]) -> Bool[Tensor, " images"]:
        """Whether "none of these" is the better answer for an image; never, where the model has no threshold."""
        threshold = None if self.calibration is None else self.calibration.reject_below
        return probabilities.amax(dim=1) < (0.0 if threshold is None else threshold)


def can_reject(calibration: Calibration | None, labels: Collection[str], own_labels: Collection[str]) -> bool:
    """Whether the threshold says anything: it was fitted, and among these labels."""
    return calibration is not None and calibration.reject_below is not None and set(labels) == set(own_labels)


def predictions(
    probabilities: Float[Tensor, "images classes"], labels: Sequence[str], top_k: int | None = None
) -> list[list[Prediction]]:
    """For each image its likeliest labels, best first; all of them without `top_k`."""
    scores, columns = probabilities.topk(min(top_k or len(labels), len(labels)), dim=1)
    return [
        [Prediction(labels[column], score) for column, score in zip(row_columns, row_scores, strict=True)]
        for row_columns, row_scores in zip(columns.tolist(), scores.tolist(), strict=True)
    ]


def check_labels(labels: Sequence[str]) -> None:
    """Raises `LabelsInvalid` for fewer than two labels, an empty one or a repeated one."""
    if len(labels) < 2:
        raise LabelsInvalid(f"{len(labels)} label given; at least two are needed to choose from.", param="labels")
    seen: set[str] = set()
    for label in labels:
        if not label.strip():
            raise LabelsInvalid("A label is empty; each must be a word or more.", param="labels")
        if label in seen:
            raise LabelsInvalid(f"The label {label!r} is given twice.", param="labels")
        seen.add(label)
