"""When a job will have finished, by the speed at which its run has gone of late."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.job_kinds import FACTS
from alignclip_store.tables import Job, Metric, Run

NUM_RECENT_RECORDS = 300


def estimate_finish(session: Session, job: Job, run_id: str, now: datetime) -> datetime | None:
    """`now` and the time that the remaining steps take; None until two batches of records of this run are there.

    Records arrive in batches that share one time. The speed is that from the last step of the oldest batch to the
    last step of the newest: evaluations and checkpoints between them count, as they will in the rest.
    """
    is_step = (Metric.job_id == job.id, Metric.kind == FACTS[job.kind].step_metrics)
    recent = session.execute(
        select(Metric.step, Metric.created_at)
        .join(Run, Run.id == run_id)
        .where(*is_step, Metric.created_at >= Run.started_at)
        .order_by(Metric.step.desc())
        .limit(NUM_RECENT_RECORDS)
    ).all()
    if not recent:
        return None
    last_step, last_at = recent[0]
    first_at = recent[-1].created_at
    first_step = next(step for step, created_at in recent if created_at == first_at)
    if last_step <= first_step or last_at <= first_at:
        return None
    seconds_per_step = (last_at - first_at).total_seconds() / (last_step - first_step)
    return now + timedelta(seconds=seconds_per_step * (job.num_steps - last_step))
