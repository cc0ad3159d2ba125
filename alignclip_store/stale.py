"""What the reaper does: it acts on claims without a sign of life, and finds the jobs that nobody was woken for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from alignclip_store.claims import CLAIM_ORDER, end_run
from alignclip_store.database import database_now
from alignclip_store.events import record_event
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.quotas import OVER_QUOTA, review_waiting_jobs
from alignclip_store.settings import Settings
from alignclip_store.tables import Job, Run
from alignclip_store.webhooks import announce_end

MAX_WOKEN_JOBS = 32  # each wakes one worker, and a woken worker goes on until nothing is queued

WAITING: Mapping[str, Any] = {
    "phase": "queued", "lease_until": None, "worker": None, "woken_at": None, "estimated_finish_at": None,
    "pause_requested_at": None,
}  # fmt: skip
ENDED: Mapping[str, Any] = {
    "lease_until": None, "worker": None, "estimated_finish_at": None, "pause_requested_at": None
}  # fmt: skip
PAUSED: Mapping[str, Any] = {**WAITING, "phase": "paused"}
"""Columns of a job that no worker holds."""


def reap(session: Session, settings: Settings) -> list[str]:
    """Act on every claimed job whose lease has run out; the ids of those jobs.

    It goes back to the queue; it has failed when it lost `max_runs_per_job` runs; it is cancelled when that was asked.

    A lease that lies further ahead than any can was written while the clock was ahead. It is made a lease from now on:
    a worker that lives renews it, and that of a dead one lapses in time.
    """
    now = database_now(session)
    longest = now + timedelta(seconds=settings.lease_seconds)
    suspect = (
        select(Job)
        .where(Job.status.in_(CLAIMED), or_(Job.lease_until < now, Job.lease_until > longest))
        .order_by(Job.created_at, Job.id)
        .with_for_update(skip_locked=True)  # several reapers may run
    )
    stale = []
    for job in session.scalars(suspect.execution_options(populate_existing=True)).all():
        if job.lease_until is not None and job.lease_until > longest:
            job.lease_until = longest
            continue
        _give_up_run(session, job, settings.max_runs_per_job, now)
        stale.append(job.id)
    return stale


def jobs_to_wake(session: Session, settings: Settings) -> list[str]:
    """Queued jobs for which no worker was woken within `wake_again_seconds`, in their order; marks them as woken.

    So are those for which one was woken later than that from now: the clock was ahead then.
    """
    review_waiting_jobs(session, settings)
    now = database_now(session)
    interval = timedelta(seconds=settings.wake_again_seconds)
    due = now - interval
    is_claimable = (Job.status == JobStatus.QUEUED, Job.phase != OVER_QUOTA)
    oldest = select(Job.id).where(*is_claimable).order_by(*CLAIM_ORDER).limit(MAX_WOKEN_JOBS)
    is_due = or_(func.coalesce(Job.woken_at, due) <= due, Job.woken_at > now + interval)
    woken = session.execute(
        update(Job)
        .where(Job.id.in_(oldest), Job.status == JobStatus.QUEUED, is_due)
        .values(woken_at=now)
        .returning(Job.priority, Job.created_at, Job.id)
        .execution_options(synchronize_session=False)
    )
    return [row.id for row in sorted(woken, key=lambda row: (-row.priority, row.created_at, row.id))]


def _give_up_run(session: Session, job: Job, max_runs: int, now: datetime) -> None:
    run_id = session.scalars(select(Run.id).where(Run.job_id == job.id, Run.fence == job.fence)).one()
    end_run(session, run_id, "lost", now)
    job.num_lost_runs += 1
    lost = f"The worker {job.worker} gave no sign of life; its run is lost"
    if job.cancel_requested_at is not None:
        _set(job, status=JobStatus.CANCELLED, phase=JobStatus.CANCELLED, finished_at=now, **ENDED)
        record_event(session, job.owner, job.id, "info", f"{lost}. The job has been cancelled.")
        announce_end(session, job)
    elif job.num_lost_runs >= max_runs:
        message = f"{lost}, as {job.num_lost_runs} in all: the job has failed."
        error = {"code": "worker_lost", "message": message, "param": None}
        _set(job, status=JobStatus.FAILED, phase=JobStatus.FAILED, error=error, finished_at=now, **ENDED)
        record_event(session, job.owner, job.id, "error", message, data={"code": "worker_lost"})
        announce_end(session, job)
    elif job.pause_requested_at is not None:
        _set(job, status=JobStatus.PAUSED, **PAUSED)
        record_event(session, job.owner, job.id, "warn", f"{lost}. The job is paused.")
    else:
        _set(job, status=JobStatus.QUEUED, **WAITING)
        record_event(session, job.owner, job.id, "warn", f"{lost}. The job is queued again.")


def _set(job: Job, **values: Any) -> None:
    for name, value in values.items():
        setattr(job, name, value)
