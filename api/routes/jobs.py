"""Fine-tuning jobs: OpenAI's /fine_tuning/jobs, and what it has no words for beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from alignclip_core.config import FinetuneConfig
from alignclip_store import checkpoints, jobs, pausing, similarities, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.errors import EventNotFound, JobNotReady, RowNotFound
from alignclip_store.events import list_events
from alignclip_store.limits import require_room_in_queue
from alignclip_store.queue import wake
from api import class_similarity
from api.answers import DeletedAnswer, ListAnswer, SimilarityAnswer, page
from api.authentication import Caller
from api.dependencies import After, CallerDep, DeliveryDep, Limit, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.heat_map import draw_heat_map
from api.job_answers import CheckpointAnswer, EventAnswer, JobAnswer, MetricAnswer, RunAnswer, answer_jobs
from api.resources import Resources
from api.schemas import FinetuneRequest
from api.streaming import stream_artifact
from api.submission import submit_job

METADATA_PREFIX = "metadata["
BACK_TO_THE_QUEUE = ("resume", "retry")

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_job(body: FinetuneRequest, caller: CallerDep, resources: ResourcesDep, delivery: DeliveryDep) -> JobAnswer:
    """Check everything but the pixels, compute the class similarity, and queue the job.

    The same body sent again by a client that lost the answer (its retry count or an Idempotency-Key says so) gets
    the job that is there.
    """
    job = submit_job(resources, caller, body, delivery)
    return _answer(resources, job)


@router.get("")
def list_jobs(
    request: Request,
    owner: OwnerDep,
    resources: ResourcesDep,
    after: After = None,
    limit: Limit = 20,
    metadata: Annotated[
        Literal["null"] | None, Query(description="`null`: jobs without metadata. Else `metadata[key]=value`.")
    ] = None,
) -> ListAnswer[JobAnswer]:
    """The owner's jobs, newest first."""
    labels = {
        name[len(METADATA_PREFIX) : -1]: value
        for name, value in request.query_params.multi_items()
        if name.startswith(METADATA_PREFIX) and name.endswith("]")
    }
    with reading(resources.engine) as session:
        rows, has_more = jobs.list_jobs(
            session, owner, after=after, limit=limit, labels=labels, without_labels=metadata == "null"
        )
        answers = [answer.in_a_list() for answer in answer_jobs(session, rows)]
    return page(answers, has_more)


@router.get("/{job_id}")
def retrieve_job(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> JobAnswer:
    """One job."""
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, job_id)
    return _answer(resources, job)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, caller: CallerDep, resources: ResourcesDep) -> JobAnswer:
    """Cancel a waiting job at once; a running one keeps its status until its trainer has stopped.

    `cancel_requested_at` says that the wish is known. Asking again changes nothing.
    """
    job = _change(resources, caller, job_id, "cancel", jobs.request_cancel)
    return _answer(resources, job)


@router.post("/{job_id}/pause")
def pause_job(job_id: str, caller: CallerDep, resources: ResourcesDep) -> JobAnswer:
    """Pause a waiting job at once; a running one saves a checkpoint first, and keeps its status until it has stopped.

    `pause_requested_at` says that the wish is known. Asking again changes nothing.
    """
    job = _change(resources, caller, job_id, "pause", pausing.request_pause)
    return _answer(resources, job)


@router.post("/{job_id}/resume")
def resume_job(job_id: str, caller: CallerDep, resources: ResourcesDep) -> JobAnswer:
    """Queue a paused job again: it goes on from its last checkpoint."""
    job = _change(resources, caller, job_id, "resume", pausing.resume_job)
    wake(resources.queue, job.id)
    return _answer(resources, job)


@router.post("/{job_id}/retry")
def retry_job(job_id: str, caller: CallerDep, resources: ResourcesDep) -> JobAnswer:
    """Queue a failed or cancelled job again: it goes on from its last checkpoint; its events keep the former error."""
    job = _change(resources, caller, job_id, "retry", pausing.retry_job)
    wake(resources.queue, job.id)
    return _answer(resources, job)


@router.get("/{job_id}/events")
def list_job_events(
    job_id: str,
    owner: OwnerDep,
    resources: ResourcesDep,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> ListAnswer[EventAnswer]:
    """What happened to the job, newest first; `order=asc` with `after` follows it."""
    with reading(resources.engine) as session:
        rows, has_more = list_events(
            session, owner, job_id, after=_event_number(after), limit=limit, newest_first=order == "desc"
        )
    return page([EventAnswer.of(row) for row in rows], has_more)


@router.get("/{job_id}/checkpoints")
def list_job_checkpoints(
    job_id: str, owner: OwnerDep, resources: ResourcesDep, after: After = None, limit: Limit = 10
) -> ListAnswer[CheckpointAnswer]:
    """The job's resume points that are kept, newest first."""
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, job_id)
        rows, has_more = checkpoints.list_checkpoints(session, owner, job_id, after=after, limit=limit)
        best = checkpoints.best_checkpoint(checkpoints.all_checkpoints(session, job_id))
    return page([CheckpointAnswer.of(row, job, is_best=row is best) for row in rows], has_more)


@router.delete("/{job_id}/checkpoints/{checkpoint_id}")
def delete_job_checkpoint(job_id: str, checkpoint_id: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete a resume point and its files. The newest of a job that has not ended stays: the job goes on from it."""
    with transaction(resources.engine) as session:
        row = checkpoints.delete_checkpoint(session, caller.owner, job_id, checkpoint_id)
        before = {"job_id": job_id, "step": row.step, "num_bytes": row.num_bytes}
        record_change(session, caller.actor, "checkpoint.delete", checkpoint_id, before=before)
    resources.artifacts.delete(row.artifact_uri)
    return DeletedAnswer(id=checkpoint_id, object="fine_tuning.job.checkpoint")


@router.get("/{job_id}/runs")
def list_job_runs(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> ListAnswer[RunAnswer]:
    """Every attempt of a worker at the job, oldest first."""
    with reading(resources.engine) as session:
        rows = jobs.list_runs(session, owner, job_id)
    return page([RunAnswer.of(row) for row in rows], has_more=False)


@router.get(
    "/{job_id}/split",
    response_class=Response,
    responses={
        200: {
            "content": {"application/json": {"schema": {"type": "object"}}},
            "description": "Every image and the part it takes: `columns` names the values of a row of `images`.",
        }
    },
)
def retrieve_job_split(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> Response:
    """Which images train, which validate, which are evaluated; known once all of them are checked."""
    with reading(resources.engine) as session:
        dataset = jobs.get_job(session, owner, job_id).dataset
    if dataset is None:
        raise JobNotReady(f"The images of job {job_id!r} are not checked yet.")
    return stream_artifact(resources.artifacts, dataset["split_uri"], media_type="application/json")


@router.get(
    "/{job_id}/logs",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "What the trainer wrote; empty before it starts.",
        }
    },
)
def retrieve_job_logs(
    job_id: str,
    owner: OwnerDep,
    resources: ResourcesDep,
    run_id: Annotated[str | None, Query(description="One of the job's runs; unset: the last that has a log.")] = None,
) -> Response:
    """The trainer's log; while it trains, a copy that is a few seconds old."""
    with reading(resources.engine) as session:
        runs = jobs.list_runs(session, owner, job_id)
    if run_id is not None and run_id not in {run.id for run in runs}:
        raise RowNotFound(f"Job {job_id!r} has no run {run_id!r}.", param="run_id")
    uris = [run.log_uri for run in runs if run.log_uri is not None and run_id in (None, run.id)]
    if not uris:
        return PlainTextResponse("")
    return stream_artifact(resources.artifacts, uris[-1], media_type="text/plain; charset=utf-8")


@router.get("/{job_id}/metrics")
def list_job_metrics(
    job_id: str,
    owner: OwnerDep,
    resources: ResourcesDep,
    kind: Literal["train", "evaluation"] | None = None,
    after_step: Annotated[int | None, Query(ge=-1, le=2**31 - 1, description="Only later steps.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Most steps of this page.")] = 1000,
) -> ListAnswer[MetricAnswer]:
    """Losses, accuracy, rate, speed and average weight per step; accuracies per evaluation. Oldest first."""
    with reading(resources.engine) as session:
        rows, has_more = jobs.list_metrics(session, owner, job_id, kind=kind, after_step=after_step, limit=limit)
    return page([MetricAnswer.of(row) for row in rows], has_more)


@router.get("/{job_id}/similarity", response_model=SimilarityAnswer)
def retrieve_job_similarity(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> Response:
    """The class-similarity matrix that the job trains with, plain and normalised by the job's own scale."""
    job, row = _similarity_of(resources, owner, job_id)
    config, similarity = FinetuneConfig.from_json(job.config), class_similarity.load(resources, row)
    return class_similarity.to_response(
        row,
        similarity,
        similarity_scale=class_similarity.scale_of_job(config, similarity),
        keep_diagonal=config.keep_diagonal,
    )


@router.get(
    "/{job_id}/similarity.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "Heat map of the cosine matrix."}},
)
def retrieve_job_similarity_picture(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> Response:
    """The class-similarity matrix as a picture."""
    _, row = _similarity_of(resources, owner, job_id)
    similarity = class_similarity.load(resources, row)
    title = f"Class similarity, {similarity.text_model}"
    return Response(draw_heat_map(similarity.cosine, similarity.class_names, title=title), media_type="image/png")


@router.get(
    "/{job_id}/similarity.safetensors",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "class_embeddings and cosine."}},
)
def retrieve_job_similarity_file(job_id: str, owner: OwnerDep, resources: ResourcesDep) -> StreamingResponse:
    """The class-similarity matrix as the trainer reads it."""
    _, row = _similarity_of(resources, owner, job_id)
    return stream_artifact(resources.artifacts, row.artifact_uri, media_type="application/octet-stream")


def _change(
    resources: Resources, caller: Caller, job_id: str, name: str, change: Callable[[Session, str, str], tables.Job]
) -> tables.Job:
    """The job after the change, which the audit log has where it changed anything."""
    with transaction(resources.engine) as session:
        if name in BACK_TO_THE_QUEUE:
            require_room_in_queue(session, caller.owner, resources.settings)
        before = _state(jobs.get_job(session, caller.owner, job_id))
        job = change(session, caller.owner, job_id)
        after = _state(job)
        if after != before:
            record_change(session, caller.actor, f"job.{name}", job_id, before=before, after=after)
    return job


def _state(job: tables.Job) -> dict[str, object]:
    return {
        "status": job.status,
        "is_cancel_requested": job.cancel_requested_at is not None,
        "is_pause_requested": job.pause_requested_at is not None,
    }


def _answer(resources: Resources, job: tables.Job) -> JobAnswer:
    with reading(resources.engine) as session:
        return answer_jobs(session, [job])[0]


def _similarity_of(resources: Resources, owner: str, job_id: str) -> tuple[tables.Job, tables.Similarity]:
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, job_id)
        return job, similarities.get_similarity(session, owner, job.similarity_id)


def _event_number(after: str | None) -> int | None:
    if after is None:
        return None
    number = after.removeprefix("ftevent-")
    if not number.isdecimal() or len(number) > 18:
        raise EventNotFound(f"No event {after!r}.", param="after")
    return int(number)
