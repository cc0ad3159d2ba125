"""Numbers over all jobs and runs, as an operator watches them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from alignclip_store.database import database_now
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.settings import Settings
from alignclip_store.tables import Delivery, Job, Metric, Run
from alignclip_store.waiting import count_jobs
from alignclip_store.workers import WorkerState, list_workers

MAX_RUNNING_JOBS = 200  # whose step time is looked up


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All owners together, at one time."""

    num_jobs: Mapping[str, int]  # by status
    num_runs: Mapping[str, int]  # by outcome; "open" while a worker is at it
    num_deliveries_due: int  # webhook messages that are still to be sent
    oldest_waiting_seconds: float  # of a job that nobody has claimed; 0 when none waits
    shortest_lease_seconds: float | None  # until the first lease lapses; below zero the reaper is late. None: none
    step_seconds: Mapping[str, float]  # of jobs that train now, by base model
    workers: Sequence[WorkerState]


def summarise(session: Session, settings: Settings) -> Summary:
    """The numbers as they are now."""
    now = database_now(session)
    outcomes = session.execute(select(Run.outcome, func.count()).group_by(Run.outcome)).tuples()
    oldest = session.scalar(select(func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED))
    lease = session.scalar(select(func.min(Job.lease_until)).where(Job.status.in_(CLAIMED)))
    due = select(func.count()).select_from(Delivery).where(Delivery.due_at.is_not(None))
    return Summary(
        num_jobs=count_jobs(session),
        num_runs={outcome or "open": number for outcome, number in outcomes},
        num_deliveries_due=session.scalar(due) or 0,
        oldest_waiting_seconds=(now - oldest).total_seconds() if oldest else 0.0,
        shortest_lease_seconds=(lease - now).total_seconds() if lease else None,
        step_seconds=_step_seconds(session),
        workers=list_workers(session, settings),
    )


def _step_seconds(session: Session) -> dict[str, float]:
    """The mean over running jobs of the seconds that their newest step took."""
    other = aliased(Metric)
    of_the_job = select(func.max(other.step)).where(other.job_id == Job.id, other.kind == "train")
    newest = of_the_job.correlate(Job).scalar_subquery()
    statement = (
        select(Job.base_model, Job.config, Metric.values)
        .join(Metric, (Metric.job_id == Job.id) & (Metric.kind == "train") & (Metric.step == newest))
        .where(Job.status == JobStatus.RUNNING)
        .limit(MAX_RUNNING_JOBS)
    )
    found: dict[str, list[float]] = defaultdict(list)
    for base_model, config, values in session.execute(statement).tuples():
        rate, batch_size = values.get("images_per_second"), config.get("global_batch_size")
        if rate and batch_size:
            found[base_model].append(batch_size / rate)
    return {base_model: statistics.fmean(seconds) for base_model, seconds in found.items()}
