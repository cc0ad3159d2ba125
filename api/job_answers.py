"""Jobs and what belongs to them as answers: OpenAI's objects with our own keys beside theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from alignclip_core.config import HYPERPARAMETERS, FinetuneConfig
from alignclip_core.evaluation import without_details
from alignclip_store import tables
from alignclip_store.job_status import JobStatus
from alignclip_store.similarities import get_similarity
from alignclip_store.waiting import Place, view_queue
from api.answers import seconds, seconds_or_none

EVALUATED = ("zero_shot", "tuned")  # keys of a result that hold evaluations by group


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


class QueuePlace(BaseModel):
    """Where a job waits."""

    position: int = Field(description="Among the waiting jobs of all owners; 1 is the next.")
    estimated_start: int | None = Field(description="Null while no worker is known.")


class DatasetSummary(BaseModel):
    """What a job trains on."""

    fingerprint: str = Field(description="Of the images, their labels, domains and splits; wherever they lie.")
    validation_fingerprint: str | None = Field(description="Of a validation set that was given.")
    test_fingerprints: dict[str, str] = Field({}, description="Of its test datasets, by their names.")
    num_images: int
    parts: dict[str, int] = Field(description="Images that train, validate, are evaluated or take no part.")
    split_sha256: str = Field(description="Of the list at links.split: equal splits have equal digests.")


class TestDatasetAnswer(BaseModel):
    """Another dataset that the weights are measured on."""

    name: str = Field(description="In result.tuned.test_datasets.")
    dataset: str
    class_names: dict[str, str] | None = Field(description="Words for its class folders, where some were given.")


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
    test_datasets: list[TestDatasetAnswer]
    suffix: str | None
    algorithm: str
    preset: str
    phase: str = Field(description="The finer state, in words.", examples=["training"])
    progress: Progress
    started_at: int | None
    cancel_requested_at: int | None
    pause_requested_at: int | None
    priority: int
    queue: QueuePlace | None = Field(description="Where a waiting job stands; null for any other.")
    num_classes: int
    class_names: dict[str, str] = Field(description="Folder name to display name.")
    unseen_classes: list[str]
    test_domains: list[str]
    templates: list[str]
    result: dict[str, Any] | None = Field(
        description="Accuracy before (zero_shot) and after (tuned), by group. Lists leave confusion and mistakes out."
    )
    dataset: DatasetSummary | None = Field(description="Null until the images are checked.")
    similarity: SimilarityLink
    links: dict[str, str]

    @classmethod
    def of(cls, job: tables.Job, similarity_sha256: str | None, place: Place | None = None) -> JobAnswer:
        config, url = job.config, f"/v1/fine_tuning/jobs/{job.id}"
        hyperparameters = _hyperparameters(job)
        return cls(
            id=job.id,
            created_at=seconds(job.created_at),
            status=str(job.status),
            model=job.base_model,
            fine_tuned_model=job.model_id,
            finished_at=seconds_or_none(job.finished_at),
            estimated_finish=seconds_or_none(job.estimated_finish_at),
            error=JobError(**job.error) if job.error else None,
            hyperparameters=hyperparameters,
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            metadata=job.labels,
            organization_id=job.owner,
            seed=config["seed"],
            training_file=job.training_file,
            validation_file=job.validation_file,
            test_datasets=[TestDatasetAnswer(**test) for test in job.test_datasets],
            suffix=job.suffix,
            algorithm=config["algorithm"],
            preset=config["preset"],
            phase=job.phase,
            progress=Progress(step=job.step, num_steps=job.num_steps),
            started_at=seconds_or_none(job.started_at),
            cancel_requested_at=seconds_or_none(job.cancel_requested_at),
            pause_requested_at=seconds_or_none(job.pause_requested_at),
            priority=job.priority,
            queue=place
            and QueuePlace(position=place.position, estimated_start=seconds_or_none(place.estimated_start_at)),
            num_classes=len(config["class_names"]),
            class_names=dict(sorted(config["class_names"].items())),
            unseen_classes=config["unseen_classes"],
            test_domains=config["test_domains"],
            templates=config["templates"],
            result=job.result,
            dataset=DatasetSummary.model_validate(job.dataset) if job.dataset else None,
            similarity=SimilarityLink(id=job.similarity_id, sha256=similarity_sha256, url=f"{url}/similarity"),
            links={
                name: f"{url}/{name}"
                for name in ("events", "checkpoints", "runs", "logs", "metrics", "similarity", "split")
            },
        )

    def in_a_list(self) -> JobAnswer:
        """Without what the result says of single images and pairs of classes, which is most of its size."""
        if self.result is None:
            return self
        evaluated = {
            name: {
                domains: {classes: without_details(found) for classes, found in groups.items()}
                for domains, groups in of.items()
            }
            for name, of in self.result.items()
            if name in EVALUATED
        }
        return self.model_copy(update={"result": self.result | evaluated})


def answer_jobs(session: Session, rows: Sequence[tables.Job]) -> list[JobAnswer]:
    """The jobs as answers. The queue is looked at only where one of them waits."""
    places = view_queue(session).places if any(row.status == JobStatus.QUEUED for row in rows) else {}
    return [
        JobAnswer.of(row, get_similarity(session, row.owner, row.similarity_id).sha256, places.get(row.id))
        for row in rows
    ]


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
                "created_at": seconds(event.created_at),
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
    is_best: bool = Field(description="Of those that are kept, the most accurate on source validation.")
    num_bytes: int = Field(description="What its files take; 0 where an earlier version stored them.")
    metrics: dict[str, Any]

    @classmethod
    def of(cls, checkpoint: tables.Checkpoint, job: tables.Job, *, is_best: bool) -> CheckpointAnswer:
        model = job.model_id or ":".join(("ft", job.base_model, job.owner, job.suffix or "", job.id))
        return cls(
            id=checkpoint.id,
            created_at=seconds(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{model}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=checkpoint.job_id,
            step_number=checkpoint.step,
            is_best=is_best,
            num_bytes=checkpoint.num_bytes,
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
            started_at=seconds(run.started_at),
            ended_at=seconds_or_none(run.ended_at),
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
            created_at=seconds(metric.created_at),
        )


def _hyperparameters(job: tables.Job) -> dict[str, Any]:
    """OpenAI's three as they were asked for, and every one of ours as it is.

    A job from before one of them was there trains, as its worker reads the config, with the default.
    """
    method = job.request.get("method") or {}
    nested = (method.get("supervised") or {}).get("hyperparameters") or {}
    asked = {**job.request, **(job.request.get("hyperparameters") or {}), **nested}
    return {
        "batch_size": job.config["global_batch_size"],
        "learning_rate_multiplier": asked.get("learning_rate_multiplier") or "auto",
        "n_epochs": asked.get("n_epochs") or "auto",
    } | {name: job.config.get(name, getattr(FinetuneConfig, name)) for name in HYPERPARAMETERS}
