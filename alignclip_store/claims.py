"""The fence: who may write to a claimed job. Every statement that changes one goes through here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from alignclip_store.errors import IllegalTransition, LeaseLost
from alignclip_store.job_status import CLAIMED, JobStatus, sources_of
from alignclip_store.tables import Job, Run


@dataclass(frozen=True, kw_only=True)
class WorkerIdentity:
    """Who claims: the worker's name, its host and the device that its trainers use."""

    name: str
    host: str
    device: str
    num_devices: int = 1  # that a trainer uses; a CPU counts as one


CLAIM_ORDER = (Job.priority.desc(), Job.created_at, Job.id)
"""Of queued jobs: the highest priority first, then the oldest."""

Wish = Literal["cancelled", "paused"]
"""What a client wants of a job that a worker holds."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job that is ours as long as its fence is."""

    job_id: str
    owner: str
    fence: int
    run_id: str


def claimed_job(session: Session, claim: Claim) -> Job:
    """The claimed job as it is now."""
    statement = select(Job).where(*_is_ours(claim)).execution_options(populate_existing=True)
    return _require(session.scalar(statement), claim)


def wish_of(job: Job) -> Wish | None:
    """What the job's client wants of its worker; a cancel outweighs a pause."""
    if job.cancel_requested_at is not None:
        return "cancelled"
    return "paused" if job.pause_requested_at is not None else None


def lock_claimed_job(session: Session, claim: Claim) -> Job:
    """The claimed job, held until the transaction ends: what follows in it is fenced."""
    statement = select(Job).where(*_is_ours(claim)).with_for_update()
    return _require(session.scalar(statement.execution_options(populate_existing=True)), claim)


def update_claimed_job(session: Session, claim: Claim, **values: Any) -> Job:
    """Set columns of the claimed job."""
    statement = update(Job).where(*_is_ours(claim)).values(**values).returning(Job)
    options = {"populate_existing": True, "synchronize_session": False}
    return _require(session.scalar(statement.execution_options(**options)), claim)


def move_claimed_job(session: Session, claim: Claim, status: JobStatus, **values: Any) -> Job:
    """Change the status and set columns. Raises `IllegalTransition` when the present one does not lead there."""
    statement = update(Job).where(*_is_ours(claim), Job.status.in_(sources_of(status)))
    options = {"populate_existing": True, "synchronize_session": False}
    moved = session.scalar(statement.values(status=status, **values).returning(Job).execution_options(**options))
    if moved is None:
        present = claimed_job(session, claim).status
        raise IllegalTransition(f"Job {claim.job_id!r} is {present} and cannot become {status} from there.")
    return moved


def end_run(session: Session, run_id: str, outcome: str, ended_at: datetime) -> None:
    """Close the history entry of an attempt."""
    session.execute(
        update(Run)
        .where(Run.id == run_id)
        .values(outcome=outcome, ended_at=ended_at)
        .execution_options(synchronize_session=False)
    )


def _is_ours(claim: Claim) -> list[ColumnElement[bool]]:
    return [Job.id == claim.job_id, Job.fence == claim.fence, Job.status.in_(CLAIMED)]


def _require(job: Job | None, claim: Claim) -> Job:
    if job is None:
        raise LeaseLost(f"Job {claim.job_id!r} is no longer held under fence {claim.fence}; its lease ran out.")
    return job
