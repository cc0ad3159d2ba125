"""The queue as a whole: who works, who waits, and when each waiting job is likely to start."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from alignclip_store import tables
from alignclip_store.claims import CLAIM_ORDER
from alignclip_store.database import database_now
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.quotas import OVER_QUOTA
from alignclip_store.speed import STARTUP_SECONDS, measured_speed
from alignclip_store.tables import Job, Run
from alignclip_store.workers import GONE, node_of


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker that will take a job sooner or later."""

    name: str
    host: str
    device: str
    job_id: str | None  # None: idle, as far as one can tell
    owner: str | None  # of that job
    free_at: datetime  # when its job will have ended, by an estimate


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a job waits. Estimates are rough: evaluations and other devices are left out of them."""

    owner: str
    position: int  # 1: the next
    estimated_start_at: datetime | None  # None while no worker is known, and for an owner who has used up a quota


@dataclass(frozen=True, kw_only=True)
class Queue:
    """All workers that are known and all jobs that wait, at one time."""

    workers: tuple[Worker, ...]
    places: Mapping[str, Place]  # by job id, in the order of their claims
    next_start_at: datetime | None  # of a job of priority 0 that came now; None while no worker is known


def view_queue(session: Session) -> Queue:
    """The queue as it is now."""
    now = database_now(session)
    step_seconds = _StepSeconds(session)
    workers = (*_busy_workers(session, now, step_seconds), *_idle_workers(session, now))
    free_at = [worker.free_at for worker in workers]
    heapq.heapify(free_at)
    places: dict[str, Place] = {}
    next_start_at = None
    statement = select(Job.id, Job.kind, Job.base_model, Job.num_steps, Job.step, Job.priority, Job.owner, Job.phase)
    waiting = session.execute(statement.where(Job.status == JobStatus.QUEUED).order_by(*CLAIM_ORDER)).all()
    num_before_a_new_job = sum(job.priority >= 0 for job in waiting)
    for position, job in enumerate(waiting, start=1):
        if position == num_before_a_new_job + 1 and free_at:
            next_start_at = max(free_at[0], now)
        may_start = bool(free_at) and job.phase != OVER_QUOTA
        start_at = max(heapq.heappop(free_at), now) if may_start else None
        places[job.id] = Place(owner=job.owner, position=position, estimated_start_at=start_at)
        if start_at is not None:
            heapq.heappush(free_at, start_at + step_seconds.rest_of(job.kind, job.base_model, job.num_steps - job.step))
    if len(waiting) == num_before_a_new_job and free_at:
        next_start_at = max(free_at[0], now)
    return Queue(workers=workers, places=places, next_start_at=next_start_at)


def count_jobs(session: Session, owner: str | None = None) -> dict[str, int]:
    """Number of jobs in each state, of one owner or of all."""
    statement = select(Job.status, func.count()).group_by(Job.status)
    if owner is not None:
        statement = statement.where(Job.owner == owner)
    counted = Counter({str(status): number for status, number in session.execute(statement).tuples()})
    return {str(status): counted[str(status)] for status in JobStatus}


class _StepSeconds:
    """Seconds per step of each base model in each kind of job, looked up once."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: dict[tuple[JobKind, str], float] = {}

    def rest_of(self, kind: JobKind, base_model: str, num_steps: int) -> timedelta:
        """What is left of a job with so many steps before it, its run's start included."""
        if (kind, base_model) not in self._found:
            self._found[kind, base_model] = measured_speed(self._session, base_model, kind).seconds_per_step
        return timedelta(seconds=STARTUP_SECONDS + self._found[kind, base_model] * max(num_steps, 0))


def _busy_workers(session: Session, now: datetime, step_seconds: _StepSeconds) -> list[Worker]:
    statement = (
        select(
            Job.id, Job.kind, Job.base_model, Job.num_steps, Job.step, Job.owner, Job.estimated_finish_at,
            Run.worker, Run.host, Run.device,
        )
        .join(Run, (Run.job_id == Job.id) & (Run.fence == Job.fence))
        .where(Job.status.in_(CLAIMED))
        .order_by(Run.started_at, Job.id)
    )  # fmt: skip
    return [
        Worker(
            name=row.worker,
            host=row.host,
            device=row.device,
            job_id=row.id,
            owner=row.owner,
            free_at=row.estimated_finish_at
            or now + step_seconds.rest_of(row.kind, row.base_model, row.num_steps - row.step),
        )
        for row in session.execute(statement)
    ]


def _idle_workers(session: Session, now: datetime) -> list[Worker]:
    """Workers that gave a sign of life lately and hold no job."""
    claimed = session.scalars(select(Job.worker).where(Job.status.in_(CLAIMED)))
    busy = {node_of(str(name)) for name in claimed}
    rows = session.scalars(select(tables.Worker).where(tables.Worker.seen_at > now - GONE).order_by(tables.Worker.name))
    return [
        Worker(name=row.name, host=row.host, device=row.device, job_id=None, owner=None, free_at=now)
        for row in rows
        if row.name not in busy
    ]
