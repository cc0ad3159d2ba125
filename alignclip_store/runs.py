"""What a worker writes: it claims a job, and every later write carries the fence of its claim.

A write whose fence is not the job's raises `LeaseLost`: the reaper gave the job up, another run may have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import func, select, true, update
from sqlalchemy.orm import Session

from alignclip_store import events
from alignclip_store.claims import (
    CLAIM_ORDER,
    Claim,
    Wish,
    WorkerIdentity,
    claimed_job,
    end_run,
    lock_claimed_job,
    move_claimed_job,
    update_claimed_job,
    wish_of,
)
from alignclip_store.database import database_now
from alignclip_store.errors import CheckpointNotFound
from alignclip_store.events import EventType, Level
from alignclip_store.ids import new_id
from alignclip_store.job_kinds import FACTS
from alignclip_store.job_status import JobStatus
from alignclip_store.limits import CLAIM_LOCK, lock_counting, owner_may_run
from alignclip_store.models import create_model
from alignclip_store.progress import estimate_finish
from alignclip_store.quotas import is_within_quota, review_waiting_jobs
from alignclip_store.settings import Settings
from alignclip_store.stale import ENDED, PAUSED, WAITING, jobs_to_wake, reap
from alignclip_store.tables import Checkpoint, Job, Metric, ResultFile, Run
from alignclip_store.upsert import insert_or_replace
from alignclip_store.webhooks import announce_end
from alignclip_store.workers import record_life

__all__ = [
    "Claim", "NewModel", "NewResultFile", "Outcome", "Wish", "WorkerIdentity", "claim_next", "claimed_job", "finish",
    "forget_checkpoint", "heartbeat", "jobs_to_wake", "latest_checkpoint", "pause", "reap", "record_checkpoint",
    "record_dataset", "record_event", "record_log", "record_metrics", "record_phase", "release", "start_training",
    "wish_of",
]  # fmt: skip

Outcome = Literal["succeeded", "failed", "cancelled"]

ENDINGS: Mapping[str, str] = {
    "succeeded": "The job has successfully completed.",
    "cancelled": "The job has been cancelled.",
}


@dataclass(frozen=True, kw_only=True)
class NewModel:
    """A finished model whose files are complete in the artifact store."""

    artifact_uri: str
    manifest: Mapping[str, Any]
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class NewResultFile:
    """The answers of a classification that are complete in the artifact store."""

    artifact_uri: str
    num_bytes: int
    sha256: str


def claim_next(
    session: Session,
    identity: WorkerIdentity,
    lease_seconds: float,
    *,
    max_running_jobs: int | None = None,
    quotas: Settings | None = None,
) -> Claim | None:
    """Claim the first queued job under a new fence; None when nothing is queued. Of many callers one gets it.

    `max_running_jobs`: jobs of an owner who has so many at work are passed over. `quotas`: so are those of an owner who
    has used one up; an event of the job says so.
    """
    if quotas is not None:
        review_waiting_jobs(session, quotas)
    if max_running_jobs is not None:
        lock_counting(session, CLAIM_LOCK)
    now = database_now(session)
    is_within = true() if quotas is None else is_within_quota(quotas, now)
    first = (
        select(Job.id)
        .where(Job.status == JobStatus.QUEUED, owner_may_run(max_running_jobs), is_within)
        .order_by(*CLAIM_ORDER)
        .limit(1)
        .with_for_update(skip_locked=True)  # PostgreSQL; on SQLite the transaction holds the only write lock
        .scalar_subquery()
    )
    job = session.scalar(
        update(Job)
        .where(Job.id == first, Job.status == JobStatus.QUEUED)
        .values(
            status=JobStatus.VALIDATING_FILES,
            phase=JobStatus.VALIDATING_FILES,
            fence=Job.fence + 1,
            worker=identity.name,
            lease_until=now + timedelta(seconds=lease_seconds),
            started_at=func.coalesce(Job.started_at, now),
        )
        .returning(Job)
        .execution_options(populate_existing=True, synchronize_session=False)
    )
    if job is None:
        return None
    run = Run(
        id=new_id("run"),
        owner=job.owner,
        job_id=job.id,
        fence=job.fence,
        worker=identity.name,
        host=identity.host,
        device=identity.device,
        started_at=now,
        num_devices=identity.num_devices,
    )
    session.add(run)
    record_life(session, identity, answered=True)
    claim = Claim(job_id=job.id, owner=job.owner, fence=job.fence, run_id=run.id)
    session.flush()
    _say(session, claim, "info", f"Validating files (run {job.fence}).", data={"run": run.id, "worker": identity.name})
    return claim


def heartbeat(session: Session, claim: Claim, lease_seconds: float) -> Wish | None:
    """Renew the lease; what the job's client wants."""
    lease_until = database_now(session) + timedelta(seconds=lease_seconds)
    return wish_of(update_claimed_job(session, claim, lease_until=lease_until))


def start_training(session: Session, claim: Claim) -> None:
    """The files are good and the process that works on them is about to start."""
    job = move_claimed_job(session, claim, JobStatus.RUNNING, phase="starting")
    _say(session, claim, "info", f"Files validated. The {FACTS[job.kind].noun} has started.")


def record_phase(session: Session, claim: Claim, phase: str) -> None:
    """The finer state, in a word of the trainer's."""
    update_claimed_job(session, claim, phase=phase)


def record_dataset(session: Session, claim: Claim, dataset: Mapping[str, Any]) -> None:
    """What the images were and how they were split, as found by this run: an earlier one's gives way."""
    update_claimed_job(session, claim, dataset=dict(dataset))


def record_event(
    session: Session,
    claim: Claim,
    level: Level,
    message: str,
    type: EventType = "message",
    data: Mapping[str, Any] | None = None,
) -> None:
    """Add to the job's log."""
    lock_claimed_job(session, claim)
    _say(session, claim, level, message, type, data)


def record_log(session: Session, claim: Claim, log_uri: str) -> None:
    """Where the run's log is kept."""
    lock_claimed_job(session, claim)
    session.execute(update(Run).where(Run.id == claim.run_id).values(log_uri=log_uri))


def record_metrics(session: Session, claim: Claim, records: Sequence[Mapping[str, Any]]) -> None:
    """Store records {"step", "kind", "values"}; the same step and kind again, after a resume, replaces the former.

    The last record of a step sets the job's step and, by the measured speed, its estimated finish.
    """
    job = lock_claimed_job(session, claim)
    now = database_now(session)
    rows = {
        (record["step"], record["kind"]): {
            "owner": claim.owner,
            "job_id": claim.job_id,
            "step": record["step"],
            "kind": record["kind"],
            "values": dict(record["values"]),
            "created_at": now,
        }
        for record in records
    }
    if not rows:
        return
    replaced = ("values", "created_at")
    session.execute(
        insert_or_replace(session, Metric, unique=("job_id", "step", "kind"), replaced=replaced), list(rows.values())
    )
    steps = [step for step, kind in rows if kind == FACTS[job.kind].step_metrics]
    if steps:
        job.step = steps[-1]
        job.estimated_finish_at = estimate_finish(session, job, claim.run_id, now)
        session.flush()


def record_checkpoint(
    session: Session, claim: Claim, *, step: int, artifact_uri: str, metrics: Mapping[str, Any], num_bytes: int = 0
) -> Checkpoint:
    """A resume point whose files are complete; of the same step again, after a resume, it replaces the former."""
    lock_claimed_job(session, claim)
    now = database_now(session)
    statement = select(Checkpoint).where(Checkpoint.job_id == claim.job_id, Checkpoint.step == step)
    checkpoint = session.scalar(statement)
    if checkpoint is None:
        checkpoint = Checkpoint(id=new_id("ckpt"), owner=claim.owner, job_id=claim.job_id, step=step)
        session.add(checkpoint)
    checkpoint.created_at, checkpoint.artifact_uri, checkpoint.metrics = now, artifact_uri, dict(metrics)
    checkpoint.num_bytes = num_bytes
    session.flush()
    _say(session, claim, "info", f"Checkpoint created at step {step}.", data={"step": step, "id": checkpoint.id})
    return checkpoint


def forget_checkpoint(session: Session, claim: Claim, checkpoint_id: str) -> Checkpoint:
    """Remove the row and return it, so that the caller can delete its files after the commit."""
    lock_claimed_job(session, claim)
    statement = select(Checkpoint).where(Checkpoint.job_id == claim.job_id, Checkpoint.id == checkpoint_id)
    checkpoint = session.scalar(statement)
    if checkpoint is None:
        raise CheckpointNotFound(f"Job {claim.job_id!r} has no checkpoint {checkpoint_id!r}.")
    session.delete(checkpoint)
    session.flush()
    return checkpoint


def latest_checkpoint(session: Session, claim: Claim) -> Checkpoint | None:
    """The resume point with the most steps."""
    statement = select(Checkpoint).where(Checkpoint.job_id == claim.job_id).order_by(Checkpoint.step.desc()).limit(1)
    return session.scalar(statement)


def finish(
    session: Session,
    claim: Claim,
    outcome: Outcome,
    *,
    error: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    model: NewModel | None = None,
    result_file: NewResultFile | None = None,
) -> Job:
    """End the job and its run.

    `error` {"code", "message", "param"} belongs to `failed`, `model` or `result_file` to `succeeded`.
    """
    has_product = model is not None or result_file is not None
    if (error is not None) != (outcome == "failed") or (has_product and outcome != "succeeded"):
        raise ValueError(f"Outcome {outcome!r} with error={error!r} and model={model!r}: an error belongs to failed.")
    now = database_now(session)
    job = move_claimed_job(session, claim, JobStatus(outcome), phase=outcome, finished_at=now, **ENDED)
    job.error = dict(error) if error is not None else None
    job.result = dict(result) if result is not None else None
    if model is not None:
        job.model_id = create_model(
            session, job, artifact_uri=model.artifact_uri, manifest=model.manifest, num_bytes=model.num_bytes
        ).id
        _say(session, claim, "info", f"New fine-tuned model created: {job.model_id}")
    if result_file is not None:
        session.add(ResultFile(job_id=job.id, owner=job.owner, created_at=now, **asdict(result_file)))
    end_run(session, claim.run_id, outcome, now)
    if error is not None:
        _say(session, claim, "error", str(error["message"]), data={"code": error["code"]})
    else:
        _say(session, claim, "info", ENDINGS[outcome])
    announce_end(session, job)
    return job


def release(session: Session, claim: Claim) -> Job:
    """Give the job back to the queue, as a worker does that must stop; no lost run is charged.

    A job that its client wants cancelled or paused is that instead.
    """
    wish = wish_of(lock_claimed_job(session, claim))
    if wish == "cancelled":
        return finish(session, claim, "cancelled")
    if wish == "paused":
        return pause(session, claim)
    job = move_claimed_job(session, claim, JobStatus.QUEUED, **WAITING)
    end_run(session, claim.run_id, "stopped", database_now(session))
    _say(session, claim, "info", "The worker is stopping; the job waits for another one and goes on from there.")
    return job


def pause(session: Session, claim: Claim) -> Job:
    """Keep the job until its client resumes it. A wish that was withdrawn or outweighed meanwhile ends as `release`."""
    if wish_of(lock_claimed_job(session, claim)) != "paused":
        return release(session, claim)
    job = move_claimed_job(session, claim, JobStatus.PAUSED, **PAUSED)
    end_run(session, claim.run_id, "paused", database_now(session))
    _say(session, claim, "info", "The job is paused; resumed, it goes on from its last checkpoint.")
    return job


def _say(
    session: Session,
    claim: Claim,
    level: Level,
    message: str,
    type: EventType = "message",
    data: Mapping[str, Any] | None = None,
) -> None:
    events.record_event(session, claim.owner, claim.job_id, level, message, type, data)
