"""Evaluations: grids of ordinary jobs. What their jobs do is in `jobs` and `runs`; here is which belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import EvaluationNotFound, IllegalTransition
from alignclip_store.ids import new_id
from alignclip_store.job_status import FINISHED
from alignclip_store.jobs import request_cancel
from alignclip_store.limits import require_room_in_queue
from alignclip_store.paging import list_page
from alignclip_store.pausing import RETRIED, retry_job
from alignclip_store.settings import Settings
from alignclip_store.tables import Evaluation, Job

LABEL = "evaluation"  # in the metadata of its jobs


def new_evaluation_id() -> str:
    """An id that the jobs carry before the row is written."""
    return new_id("eval")


def create_evaluation(
    session: Session,
    owner: str,
    evaluation_id: str,
    *,
    name: str,
    protocol: str,
    dataset: str,
    base_model: str,
    cells: Sequence[Mapping[str, Any]],
) -> Evaluation:
    """The evaluation of jobs that the same transaction has created."""
    evaluation = Evaluation(
        id=evaluation_id,
        owner=owner,
        created_at=database_now(session),
        name=name,
        protocol=protocol,
        dataset=dataset,
        base_model=base_model,
        cells=[dict(cell) for cell in cells],
    )
    session.add(evaluation)
    session.flush()
    return evaluation


def get_evaluation(session: Session, owner: str, evaluation_id: str, *, param: str | None = None) -> Evaluation:
    """The owner's evaluation. Raises `EvaluationNotFound`, also for another owner's."""
    wanted = select(Evaluation).where(Evaluation.id == evaluation_id, Evaluation.owner == owner)
    evaluation = session.scalar(wanted)
    if evaluation is None:
        raise EvaluationNotFound(f"No evaluation {evaluation_id!r}.", param=param)
    return evaluation


def list_evaluations(
    session: Session, owner: str, *, after: str | None = None, limit: int = 20
) -> tuple[list[Evaluation], bool]:
    """Up to `limit` behind the evaluation `after`, newest first, and whether more follow."""
    mark = get_evaluation(session, owner, after, param="after") if after is not None else None
    return list_page(session, Evaluation, [Evaluation.owner == owner], after=mark, limit=limit)


def jobs_of(session: Session, evaluation: Evaluation) -> dict[str, Job]:
    """Its jobs by their ids."""
    ids = {cell["job_id"] for cell in evaluation.cells}
    found = session.scalars(select(Job).where(Job.owner == evaluation.owner, Job.id.in_(ids)))
    return {job.id: job for job in found}


def cancel_evaluation(session: Session, owner: str, evaluation_id: str) -> tuple[Evaluation, int]:
    """Cancel every job of it that has not ended, and how many these were. Asking again changes nothing."""
    evaluation = get_evaluation(session, owner, evaluation_id)
    going = sorted(job.id for job in jobs_of(session, evaluation).values() if job.status not in FINISHED)
    for job_id in going:
        with suppress(IllegalTransition):  # it has ended since
            request_cancel(session, owner, job_id)
    if going and evaluation.cancel_requested_at is None:
        evaluation.cancel_requested_at = database_now(session)
    return evaluation, len(going)


def retry_evaluation(
    session: Session, owner: str, evaluation_id: str, settings: Settings
) -> tuple[Evaluation, list[str]]:
    """Queue every failed or cancelled job of it again, and the ids of these. Asking again changes nothing.

    Raises `QuotaExceeded` where they are more than may wait, and `DatasetRejected` when the dataset was deleted since.
    """
    evaluation = get_evaluation(session, owner, evaluation_id)
    ended = sorted(job.id for job in jobs_of(session, evaluation).values() if job.status in RETRIED)
    if ended:
        require_room_in_queue(session, owner, settings, num_jobs=len(ended))
        evaluation.cancel_requested_at = None
    for job_id in ended:
        with suppress(IllegalTransition):  # somebody tries it again already
            retry_job(session, owner, job_id)
    return evaluation, ended
