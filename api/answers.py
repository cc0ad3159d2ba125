"""Bodies of answers, and how rows become them: OpenAI's objects with our own keys beside theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from alignclip_core.base_models import BaseModel as BaseClip
from alignclip_store import tables

Item = TypeVar("Item")


class ListAnswer(BaseModel, Generic[Item]):
    """One page; the next begins with `after` = the id of the last item."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class DeletedAnswer(BaseModel):
    """What was deleted."""

    id: str
    object: str
    deleted: bool = True


class FileAnswer(BaseModel):
    """An uploaded dataset archive."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None
    expires_at: int | None = None
    sha256: str

    @classmethod
    def of(cls, file: tables.File) -> FileAnswer:
        return cls(
            id=file.id,
            bytes=file.num_bytes,
            created_at=seconds(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            sha256=file.sha256,
        )


class ModelAnswer(BaseModel):
    """A model that classifies: a base model, or a tuned one."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    # ours
    base_model: str | None = Field(description="Null for a base model.")
    job_id: str | None = None
    class_names: dict[str, str] | None = Field(None, description="Folder name to display name.")
    trained_classes: list[str] | None = None
    templates: list[str]
    result: dict[str, Any] | None = None
    interpolated_from: str | None = Field(None, description="The tuned model that this is a mixture of with its base.")
    alpha: float | None = Field(None, description="Its share of the tuned weights.")
    description: str = ""
    licence: str = ""

    @classmethod
    def of(cls, model: BaseClip | tables.Model) -> ModelAnswer:
        return cls.of_base(model) if isinstance(model, BaseClip) else cls.of_tuned(model)

    @classmethod
    def of_base(cls, card: BaseClip) -> ModelAnswer:
        assert card.folder is not None, "only local models are shown"
        return cls(
            id=card.id,
            created=int(card.folder.stat().st_mtime),
            owned_by="alignclip",
            base_model=None,
            templates=list(card.templates),
            description=card.description,
            licence=card.licence,
        )

    @classmethod
    def of_tuned(cls, model: tables.Model) -> ModelAnswer:
        manifest: Mapping[str, Any] = model.manifest
        return cls(
            id=model.id,
            created=seconds(model.created_at),
            owned_by=model.owner,
            base_model=model.base_model,
            job_id=model.job_id,
            class_names=dict(sorted(manifest.get("class_names", {}).items())),
            trained_classes=manifest.get("trained_classes"),
            templates=manifest.get("templates", []),
            result=manifest.get("result"),
            interpolated_from=manifest.get("interpolated_from"),
            alpha=manifest.get("alpha"),
        )


class SimilarityAnswer(BaseModel):
    """How near the class names are to each other as the text tower reads them, and the training targets from it."""

    id: str
    object: Literal["class_similarity"] = "class_similarity"
    model: str
    text_model: str
    templates: list[str]
    class_names: list[str] = Field(description="Order of rows and columns.")
    cosine: list[list[float]]
    normalised: list[list[float]] = Field(description="Row-wise softmax over similarity_scale * cosine (B.5).")
    similarity_scale: float
    keep_diagonal: bool
    sha256: str = Field(description="Over names, templates, text model and the cosine matrix.")


class PredictionAnswer(BaseModel):
    """A label and its score."""

    label: str
    score: float


class ImagePredictions(BaseModel):
    """The best labels of one image, best first."""

    index: int
    filename: str
    predictions: list[PredictionAnswer]
    rejected: bool | None = Field(
        None,
        description="Whether the best score is so low that the answer is `none of these`; null where no threshold was "
        "fitted, and for other labels than the model's own.",
    )


class ClassifyAnswer(BaseModel):
    """The labels of every image of a multipart request, in its order."""

    object: Literal["list"] = "list"
    model: str = Field(description="Id of the model that answered; of an alias the one it points to.")
    calibrated: bool = Field(False, description="Whether the scores are calibrated probabilities.")
    data: list[ImagePredictions]
    compared: ClassifyAnswer | None = Field(None, description="The same images by the model of `compare_with`.")


def page(items: Sequence[Any], has_more: bool) -> ListAnswer[Any]:
    """A page of answers that have an id."""
    return ListAnswer(
        data=list(items),
        has_more=has_more,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )


def seconds(moment: datetime) -> int:
    """Unix time, as OpenAI's objects have it."""
    return int(moment.timestamp())


def seconds_or_none(moment: datetime | None) -> int | None:
    """Unix time of what may not have happened yet."""
    return None if moment is None else seconds(moment)
