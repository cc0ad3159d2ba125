"""Bodies of answers, and how rows become them: OpenAI's objects with our own keys beside theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from alignclip_core.base_models import BaseModel as BaseClip
from alignclip_core.config import HYPERPARAMETERS
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
            created_at=_seconds(file.created_at),
            filename=file.filename,
            purpose=file.purpose,
            sha256=file.sha256,
        )


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class Progress(BaseModel):
    """How far the training is."""

    step: int
    num_steps: int


class SimilarityLink(BaseModel):
    """The class-similarity matrix that the job trains with."""

    id: str
    sha256: str | None
    url: str


class JobAnswer(BaseModel):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    status: str = Field(examples=["running"])
    model: str
    fine_tuned_model: str | None
    finished_at: int | None
    estimated_finish: int | None
    error: JobError | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    integrations: list[Any] | None = None
    metadata: dict[str, str]
    organization_id: str
    result_files: list[str] = []
    seed: int
    trained_tokens: int | None = None
    training_file: str
    validation_file: str | None
    # ours
    suffix: str | None
    algorithm: str
    preset: str
    phase: str = Field(description="The finer state, in words.", examples=["training"])
    progress: Progress
    started_at: int | None
    cancel_requested_at: int | None
    num_classes: int
    class_names: dict[str, str] = Field(description="Folder name to display name.")
    unseen_classes: list[str]
    test_domains: list[str]
    templates: list[str]
    result: dict[str, Any] | None = Field(description="Accuracy before (zero_shot) and after (tuned), by group.")
    similarity: SimilarityLink
    links: dict[str, str]

    @classmethod
    def of(cls, job: tables.Job, similarity_sha256: str | None) -> JobAnswer:
        config, url = job.config, f"/v1/fine_tuning/jobs/{job.id}"
        hyperparameters = _hyperparameters(job)
        return cls(
            id=job.id,
            created_at=_seconds(job.created_at),
            status=str(job.status),
            model=job.base_model,
            fine_tuned_model=job.model_id,
            finished_at=_seconds_or_none(job.finished_at),
            estimated_finish=_seconds_or_none(job.estimated_finish_at),
            error=JobError(**job.error) if job.error else None,
            hyperparameters=hyperparameters,
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            metadata=job.labels,
            organization_id=job.owner,
            seed=config["seed"],
            training_file=job.training_file,
            validation_file=job.validation_file,
            suffix=job.suffix,
            algorithm=config["algorithm"],
            preset=config["preset"],
            phase=job.phase,
            progress=Progress(step=job.step, num_steps=job.num_steps),
            started_at=_seconds_or_none(job.started_at),
            cancel_requested_at=_seconds_or_none(job.cancel_requested_at),
            num_classes=len(config["class_names"]),
            class_names=config["class_names"],
            unseen_classes=config["unseen_classes"],
            test_domains=config["test_domains"],
            templates=config["templates"],
            result=job.result,
            similarity=SimilarityLink(id=job.similarity_id, sha256=similarity_sha256, url=f"{url}/similarity"),
            links={
                name: f"{url}/{name}" for name in ("events", "checkpoints", "runs", "logs", "metrics", "similarity")
            },
        )


class EventAnswer(BaseModel):
    """What happened to a job, in words."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: tables.Event) -> EventAnswer:
        return cls.model_validate(
            {
                "id": f"ftevent-{event.id}",
                "created_at": _seconds(event.created_at),
                "level": event.level,
                "message": event.message,
                "type": event.type,
                "data": event.data,
            }
        )


class CheckpointAnswer(BaseModel):
    """A resume point whose files are complete."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: tables.Checkpoint, job: tables.Job) -> CheckpointAnswer:
        model = job.model_id or ":".join(("ft", job.base_model, job.owner, job.suffix or "", job.id))
        return cls(
            id=checkpoint.id,
            created_at=_seconds(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{model}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=checkpoint.job_id,
            step_number=checkpoint.step,
            metrics={"step": checkpoint.step, **checkpoint.metrics},
        )


class RunAnswer(BaseModel):
    """One attempt of a worker at a job."""

    id: str
    object: Literal["fine_tuning.job.run"] = "fine_tuning.job.run"
    fence: int = Field(description="Number of the claim; writes under an older one are refused.")
    worker: str
    host: str
    device: str
    started_at: int
    ended_at: int | None
    outcome: str | None = Field(description="succeeded, failed, cancelled, stopped or lost; null while it works.")

    @classmethod
    def of(cls, run: tables.Run) -> RunAnswer:
        return cls(
            id=run.id,
            fence=run.fence,
            worker=run.worker,
            host=run.host,
            device=run.device,
            started_at=_seconds(run.started_at),
            ended_at=_seconds_or_none(run.ended_at),
            outcome=run.outcome,
        )


class MetricAnswer(BaseModel):
    """Numbers of one step."""

    id: str
    object: Literal["fine_tuning.job.metric"] = "fine_tuning.job.metric"
    step: int
    kind: str = Field(description="train or evaluation.", examples=["train"])
    values: dict[str, Any]
    created_at: int

    @classmethod
    def of(cls, metric: tables.Metric) -> MetricAnswer:
        return cls(
            id=f"metric-{metric.id}",
            step=metric.step,
            kind=metric.kind,
            values=metric.values,
            created_at=_seconds(metric.created_at),
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
    description: str = ""
    licence: str = ""

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
            created=_seconds(model.created_at),
            owned_by=model.owner,
            base_model=model.base_model,
            job_id=model.job_id,
            class_names=manifest.get("class_names"),
            trained_classes=manifest.get("trained_classes"),
            templates=manifest.get("templates", []),
            result=manifest.get("result"),
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


class ClassifyAnswer(BaseModel):
    """The labels of every image of a multipart request, in its order."""

    object: Literal["list"] = "list"
    model: str
    data: list[ImagePredictions]


def page(items: Sequence[Any], has_more: bool) -> ListAnswer[Any]:
    """A page of answers that have an id."""
    return ListAnswer(
        data=list(items),
        has_more=has_more,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )


def _hyperparameters(job: tables.Job) -> dict[str, Any]:
    """OpenAI's three as they were asked for, and every one of ours as it is."""
    method = job.request.get("method") or {}
    nested = (method.get("supervised") or {}).get("hyperparameters") or {}
    asked = {**job.request, **(job.request.get("hyperparameters") or {}), **nested}
    return {
        "batch_size": job.config["global_batch_size"],
        "learning_rate_multiplier": asked.get("learning_rate_multiplier") or "auto",
        "n_epochs": asked.get("n_epochs") or "auto",
    } | {name: job.config[name] for name in HYPERPARAMETERS}


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _seconds_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else _seconds(moment)
