"""What a client may want of a job beside its cancel: pause it, let it go on, try it again."""

from __future__ import annotations

from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import DatasetRejected, FileNotFound, IllegalTransition
from alignclip_store.events import record_event
from alignclip_store.files import lock_files_of
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.jobs import get_job, lock_job
from alignclip_store.stale import PAUSED, WAITING
from alignclip_store.tables import Job

RETRIED = (JobStatus.FAILED, JobStatus.CANCELLED)


def request_pause(session: Session, owner: str, job_id: str) -> Job:
    """Pause a waiting job at once; leave the wish with a claimed one, whose worker saves a checkpoint and stops.

    Asking again changes nothing. Raises `IllegalTransition` for a job that has ended or is being cancelled.
    """
    job = lock_job(session, owner, job_id)
    if job.status == JobStatus.PAUSED or (job.status in CLAIMED and job.pause_requested_at):
        return job
    if job.status in CLAIMED and job.cancel_requested_at is None:
        job.pause_requested_at = database_now(session)
        record_event(session, owner, job_id, "info", "Pause requested; the worker saves a checkpoint and stops.")
    elif job.status == JobStatus.QUEUED:
        _set(job, status=JobStatus.PAUSED, **PAUSED)
        record_event(session, owner, job_id, "info", "The job is paused.")
    else:
        state = "being cancelled" if job.cancel_requested_at and job.status in CLAIMED else job.status
        raise IllegalTransition(f"Job {job_id!r} is {state}; only a job that waits or runs can be paused.")
    session.flush()
    return job


def resume_job(session: Session, owner: str, job_id: str) -> Job:
    """Queue a paused job again, or withdraw the wish to pause it. Raises `IllegalTransition` for any other."""
    job = lock_job(session, owner, job_id)
    if job.status == JobStatus.PAUSED:
        _set(job, status=JobStatus.QUEUED, **WAITING)
        record_event(session, owner, job_id, "info", "The job is resumed and waits for a worker.")
    elif job.status in CLAIMED and job.pause_requested_at is not None:
        job.pause_requested_at = None
        record_event(session, owner, job_id, "info", "The pause is withdrawn.")
    else:
        raise IllegalTransition(f"Job {job_id!r} is {job.status}; only a paused job can be resumed.")
    session.flush()
    return job


def retry_job(session: Session, owner: str, job_id: str, *, kind: JobKind = JobKind.FINE_TUNING) -> Job:
    """Queue a failed or cancelled job again; it goes on from its last checkpoint with all its runs before it.

    The error of the former end stays in the events. Raises `IllegalTransition` for a job in any other state, and
    `DatasetRejected` when its files were deleted since.
    """
    _lock_files_of(session, get_job(session, owner, job_id, kind=kind))  # before the job, as everywhere: no deadlock
    job = lock_job(session, owner, job_id, kind=kind)
    if job.status not in RETRIED:
        raise IllegalTransition(f"Job {job_id!r} is {job.status}; only a failed or cancelled job can be tried again.")
    _set(
        job,
        status=JobStatus.QUEUED,
        num_lost_runs=0,
        error=None,
        finished_at=None,
        cancel_requested_at=None,
        **WAITING,
    )
    record_event(session, owner, job_id, "info", "The job is tried again and waits for a worker.")
    session.flush()
    return job


def _lock_files_of(session: Session, job: Job) -> None:
    try:
        lock_files_of(session, job)
    except FileNotFound as error:
        raise DatasetRejected(f"{error.message} It was deleted; create the job anew.", param=error.param) from error


def _set(job: Job, **values: object) -> None:
    for name, value in values.items():
        setattr(job, name, value)
