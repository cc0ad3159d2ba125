"""Classifications: a model asked of a whole dataset, by a worker, with a file of answers."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from sqlalchemy.orm import Session

from alignclip_store import jobs, result_files, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.job_kinds import JobKind
from alignclip_store.limits import require_room_in_queue
from alignclip_store.pausing import retry_job
from alignclip_store.queue import wake
from api.answers import DeletedAnswer, ListAnswer, page
from api.authentication import Caller
from api.classifications import (
    URL,
    ClassificationAnswer,
    ClassificationRequest,
    answer_classifications,
    submit_classification,
)
from api.dependencies import After, CallerDep, DeliveryDep, Limit, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.resources import Resources
from api.streaming import stream_artifact

KIND = JobKind.CLASSIFICATION

router = APIRouter(prefix=URL, tags=["classifications"])


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_classification(
    body: ClassificationRequest, caller: CallerDep, resources: ResourcesDep, delivery: DeliveryDep
) -> ClassificationAnswer:
    """Check model, labels and the dataset's listing, and queue the images for a worker.

    A repeated request finds its classification, as with fine-tuning jobs.
    """
    return _answer(resources, submit_classification(resources, caller, body, delivery))


@router.get("")
def list_classifications(
    owner: OwnerDep, resources: ResourcesDep, after: After = None, limit: Limit = 20
) -> ListAnswer[ClassificationAnswer]:
    """The owner's classifications, newest first."""
    with reading(resources.engine) as session:
        rows, has_more = jobs.list_jobs(session, owner, kind=KIND, after=after, limit=limit)
        answers = answer_classifications(session, rows)
    return page(answers, has_more)


@router.get("/{classification_id}")
def retrieve_classification(classification_id: str, owner: OwnerDep, resources: ResourcesDep) -> ClassificationAnswer:
    """One classification."""
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, classification_id, kind=KIND)
    return _answer(resources, job)


@router.post("/{classification_id}/cancel")
def cancel_classification(classification_id: str, caller: CallerDep, resources: ResourcesDep) -> ClassificationAnswer:
    """Cancel a waiting one at once; a running one keeps its status until its process has stopped.

    `cancel_requested_at` says that the wish is known. Asking again changes nothing.
    """
    with transaction(resources.engine) as session:
        job = _change(session, caller, classification_id, "cancel", jobs.request_cancel)
    return _answer(resources, job)


@router.post("/{classification_id}/retry")
def retry_classification(classification_id: str, caller: CallerDep, resources: ResourcesDep) -> ClassificationAnswer:
    """Queue a failed or cancelled one again: it goes on behind the answers that were kept."""
    with transaction(resources.engine) as session:
        require_room_in_queue(session, caller.owner, resources.settings)
        job = _change(session, caller, classification_id, "retry", retry_job)
    wake(resources.queue, job.id)
    return _answer(resources, job)


@router.get(
    "/{classification_id}/results",
    response_class=Response,
    responses={
        200: {
            "content": {"application/jsonl": {"schema": {"type": "string"}}},
            "description": "A line an image: `path`, `label` (its class folder or null), `predictions` (of `label` and "
            "`score`) and `rejected`; or `path` and `error` of one that cannot be read.",
        }
    },
)
def retrieve_classification_results(
    classification_id: str, owner: OwnerDep, resources: ResourcesDep
) -> StreamingResponse:
    """The answers, once there are any."""
    with reading(resources.engine) as session:
        file = result_files.get_result_file(session, owner, classification_id)
    headers = {
        "Content-Length": str(file.num_bytes),
        "Content-Disposition": f'attachment; filename="{classification_id}.jsonl"',
    }
    return stream_artifact(resources.artifacts, file.artifact_uri, media_type="application/jsonl", headers=headers)


@router.delete("/{classification_id}/results")
def delete_classification_results(classification_id: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete the answers; the counts of them stay."""
    with transaction(resources.engine) as session:
        file = result_files.delete_result_file(session, caller.owner, classification_id)
        before = {"num_bytes": file.num_bytes, "sha256": file.sha256}
        record_change(session, caller.actor, "classification.delete_results", classification_id, before=before)
    resources.artifacts.delete(file.artifact_uri)
    return DeletedAnswer(id=classification_id, object="classification.results")


@router.get(
    "/{classification_id}/logs",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "description": "What the process wrote; empty before it starts.",
        }
    },
)
def retrieve_classification_logs(classification_id: str, owner: OwnerDep, resources: ResourcesDep) -> Response:
    """The log of the last run that has one; while it runs, a copy that is a few seconds old."""
    with reading(resources.engine) as session:
        runs = jobs.list_runs(session, owner, classification_id, kind=KIND)
    uris = [run.log_uri for run in runs if run.log_uri is not None]
    if not uris:
        return PlainTextResponse("")
    return stream_artifact(resources.artifacts, uris[-1], media_type="text/plain; charset=utf-8")


def _change(
    session: Session, caller: Caller, classification_id: str, name: str, change: Callable[..., tables.Job]
) -> tables.Job:
    """The job after the change, which the audit log has where it changed anything."""
    before = _state(jobs.get_job(session, caller.owner, classification_id, kind=KIND))
    job = change(session, caller.owner, classification_id, kind=KIND)
    after = _state(job)
    if after != before:
        record_change(session, caller.actor, f"classification.{name}", classification_id, before=before, after=after)
    return job


def _state(job: tables.Job) -> dict[str, object]:
    return {"status": job.status, "is_cancel_requested": job.cancel_requested_at is not None}


def _answer(resources: Resources, job: tables.Job) -> ClassificationAnswer:
    with reading(resources.engine) as session:
        return answer_classifications(session, [job])[0]
