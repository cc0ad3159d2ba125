"""A model asked of a whole dataset over HTTP: the request becomes a job, and the job's row the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.orm import Session

from alignclip_core.config import TEMPLATE_SETS
from alignclip_core.errors import ConfigInvalid, LabelsInvalid
from alignclip_store import jobs, tables
from alignclip_store.audit import record_change
from alignclip_store.database import transaction
from alignclip_store.errors import DatasetRejected, FileNotFound, ModelNotFound
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import JobStatus
from alignclip_store.limits import require_room_in_queue
from alignclip_store.models import lock_model
from alignclip_store.queue import wake
from alignclip_store.result_files import result_files_of
from alignclip_store.waiting import Place, view_queue
from api import class_similarity
from api.answers import seconds, seconds_or_none
from api.authentication import Caller
from api.classification import labels_of
from api.classify_forms import DEFAULT_TOP_K, ClassifyRequest
from api.dependencies import Delivery
from api.errors import RequestInvalid
from api.job_answers import JobError, QueuePlace
from api.layouts import read_layout_of
from api.resources import Resources
from api.schemas import MetadataKey, MetadataValue, Name, RequestBody, Template, resolve_templates
from api.served_models import DescribedModel, describe_model, find_model
from api.submission import find_repeated

URL = "/v1/classifications"


class ClassificationRequest(RequestBody):
    """Which model is asked of which dataset."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "production", "dataset": "file-abc123"}]})

    model: str = Field(min_length=1, max_length=320, description="Id of a base or tuned model, or an alias.")
    dataset: str = Field(
        min_length=1,
        description="A file id, or a path or URL that the operator opened. Class folders are not needed.",
    )
    labels: list[Name] | None = Field(None, description="At least two; unset: the model's own classes.")
    templates: list[Template] | Template | None = Field(
        None, description=f"Prompts with one {{}} each, or the name of a set: {', '.join(TEMPLATE_SETS)}."
    )
    top_k: int = Field(DEFAULT_TOP_K, ge=1, le=1000, description="Labels of each image that are told, best first.")
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None


class ClassificationResult(BaseModel):
    """The answers in numbers."""

    num_images: int
    num_failed: int = Field(description="Images that cannot be read; the line of each says why.")
    num_rejected: int | None = Field(description="Answers of `none of these`; null where no threshold was fitted.")
    num_by_label: dict[str, int] = Field(description="How often each label came first, the most frequent first.")
    num_judged: int = Field(description="Images whose folder names one of the labels.")
    accuracy: float | None = Field(description="Over those that are judged; null where there are none.")
    sha256: str = Field(description="Of the result file.")

    @field_validator("num_by_label")
    @classmethod
    def _most_frequent_first(cls, counts: dict[str, int]) -> dict[str, int]:
        """Not every database keeps the order of keys."""
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class ClassificationAnswer(BaseModel):
    """A classification of a dataset."""

    id: str
    object: Literal["classification"] = "classification"
    created_at: int
    status: str = Field(description="Of a fine-tuning job's words, but for paused.", examples=["running"])
    phase: str = Field(description="The finer state, in words.", examples=["classifying"])
    model: str = Field(description="Id of the model that is asked; of an alias the one it pointed to.")
    dataset: str
    labels: list[str] | None = Field(description="As the request named them; null: the model's own classes.")
    templates: list[str] | str | None = Field(description="As the request named them; null: the model's own.")
    top_k: int
    metadata: dict[str, str]
    num_images: int
    num_done: int = Field(description="Images that have their answer, as last told.")
    queue: QueuePlace | None = Field(description="Where it waits; null once it does not.")
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    cancel_requested_at: int | None
    error: JobError | None
    result: ClassificationResult | None
    result_file: str | None = Field(description="Path of the answers; null before they are there, and once deleted.")

    @classmethod
    def of(cls, job: tables.Job, place: Place | None, *, has_result_file: bool) -> ClassificationAnswer:
        assert job.model_id is not None
        start = None if place is None else seconds_or_none(place.estimated_start_at)
        return cls(
            id=job.id,
            created_at=seconds(job.created_at),
            status=str(job.status),
            phase=job.phase,
            model=job.model_id,
            dataset=job.training_file,
            labels=job.request.get("labels"),
            templates=job.request.get("templates"),
            top_k=job.config["top_k"],
            metadata=job.labels,
            num_images=job.result["num_images"] if job.result else job.num_steps,
            num_done=job.step,
            queue=None if place is None else QueuePlace(position=place.position, estimated_start=start),
            started_at=seconds_or_none(job.started_at),
            finished_at=seconds_or_none(job.finished_at),
            estimated_finish=seconds_or_none(job.estimated_finish_at),
            cancel_requested_at=seconds_or_none(job.cancel_requested_at),
            error=JobError(**job.error) if job.error else None,
            result=ClassificationResult(**job.result) if job.result else None,
            result_file=f"{URL}/{job.id}/results" if has_result_file else None,
        )


def answer_classifications(session: Session, rows: Sequence[tables.Job]) -> list[ClassificationAnswer]:
    """The classifications as answers. The queue is looked at only where one of them waits."""
    places = view_queue(session).places if any(row.status == JobStatus.QUEUED for row in rows) else {}
    files = result_files_of(session, rows)
    return [ClassificationAnswer.of(row, places.get(row.id), has_result_file=row.id in files) for row in rows]


def submit_classification(
    resources: Resources, caller: Caller, request: ClassificationRequest, delivery: Delivery
) -> tables.Job:
    """The queued job of a request; the one that is there already when the client sent the request before."""
    owner = caller.owner
    # Equal bodies wait for each other, so that a repeat that overtakes its original still finds its job.
    with resources.computing.holding((owner, JobKind.CLASSIFICATION, delivery.sha256)):
        repeated = find_repeated(resources, owner, JobKind.CLASSIFICATION, delivery)
        if repeated is not None:
            return repeated
        model = _find_asked_model(resources, owner, request.model)
        similarity = _embed_labels(resources, owner, model, request)
        layout = read_layout_of(resources, owner, request.dataset, param="dataset", min_classes=0)
        job = _insert(resources, caller, request, delivery, model, similarity, num_images=len(layout.samples))
    wake(resources.queue, job.id)  # after the commit; a broker that is away only delays
    return job


def _find_asked_model(resources: Resources, owner: str, name: str) -> DescribedModel:
    """The model that a body names: one that is not there is a wrong request rather than a wrong address."""
    try:
        return describe_model(resources, find_model(resources, owner, name))
    except ModelNotFound as error:
        raise RequestInvalid(error.message, param="model", code=error.code) from error


def _embed_labels(
    resources: Resources, owner: str, model: DescribedModel, request: ClassificationRequest
) -> tables.Similarity:
    """The labels with their class embeddings, as the worker gets them."""
    named = None if request.labels is None else tuple(request.labels)
    labels = labels_of(ClassifyRequest(images=(), labels=named), model, resources.settings)
    templates = resolve_templates(request.templates) or model.templates
    try:
        return class_similarity.find_or_compute(
            resources, owner, model.base_model, labels, templates, hyphens_to_spaces=model.hyphens_to_spaces
        )
    except (ConfigInvalid, LabelsInvalid) as error:  # there they are the class names of a job
        raise type(error)(error.message, param="labels") from error


def _insert(
    resources: Resources,
    caller: Caller,
    request: ClassificationRequest,
    delivery: Delivery,
    model: DescribedModel,
    similarity: tables.Similarity,
    *,
    num_images: int,
) -> tables.Job:
    given: dict[str, Any] = {
        "kind": JobKind.CLASSIFICATION,
        "config": {"top_k": request.top_k},
        "request": delivery.body,
        "request_sha256": delivery.sha256,
        "idempotency_key": delivery.idempotency_key,
        "training_file": request.dataset,
        "validation_file": None,
        "suffix": None,
        "labels": request.metadata or {},
        "similarity_id": similarity.id,
        "num_steps": num_images,
        "base_model": model.base_model.id,
        "model_id": model.id,
    }
    try:
        with transaction(resources.engine) as session:
            require_room_in_queue(session, caller.owner, resources.settings)
            if model.id != model.base_model.id:
                lock_model(session, caller.owner, model.id)
            job = jobs.create_job(session, caller.owner, **given)
            after = {"model": model.id, "request_sha256": delivery.sha256}
            record_change(session, caller.actor, "classification.create", job.id, after=after)
    except FileNotFound as error:  # deleted since it was listed, as the model below
        raise DatasetRejected(error.message, param=error.param) from error
    except ModelNotFound as error:
        raise RequestInvalid(error.message, param="model", code=error.code) from error
    return job
