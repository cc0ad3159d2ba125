"""What is deleted by age: rows first, in a transaction; their files after the commit, so that no row names a gap."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import and_, exists, or_, select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.ids import model_id
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import FINISHED, JobStatus
from alignclip_store.models import asks_model
from alignclip_store.settings import Settings
from alignclip_store.tables import Alias, Checkpoint, File, Job, Model, ResultFile, Run
from alignclip_store.uploads import drop_expired_uploads

MAX_ROWS = 100  # of a kind in one transaction; the next one takes the rest
SWEEP_AFTER = timedelta(hours=1)  # of a run's end: a worker that was stalled may wake and store what it had begun


def drop_expired(session: Session, settings: Settings) -> list[str]:
    """Remove rows that are older than the settings keep them; returns where their files are, to be deleted."""
    return [
        *drop_expired_uploads(session),
        *_drop_files(session, settings.keep_files_days),
        *_drop_checkpoints(session, settings.keep_checkpoints_days),
        *_drop_models(session, settings.keep_models_days),
        *_drop_result_files(session, settings.keep_results_days),
    ]


def run_prefix(job_id: str, fence: int) -> str:
    """Where a run stores its log and its checkpoints. The fence keeps a stale run from overwriting a later one's."""
    return f"jobs/{job_id}/run-{fence}"


def result_file_key(job_id: str, fence: int) -> str:
    """Where a run of a classification stores its answers."""
    return f"{run_prefix(job_id, fence)}/results.jsonl"


def model_key(job: Job, fence: int) -> str:
    """Where a run stores the model that it made, for the same reason under its fence."""
    return f"models/{model_id(job.base_model, job.owner, job.suffix, job.id)}/run-{fence}"


def mark_ended_runs(session: Session) -> list[tuple[str, str]]:
    """Of runs that made nothing and ended long enough ago, once each: (key of checkpoints, key of its product)."""
    now = database_now(session)
    statement = (
        select(Run, Job)
        .join(Job, Job.id == Run.job_id)
        .where(Run.outcome != "succeeded", Run.ended_at < now - SWEEP_AFTER, Run.swept_at.is_(None))
        .limit(MAX_ROWS)
        .with_for_update(of=Run, skip_locked=True)
    )
    found = []
    for run, job in session.execute(statement).tuples():
        run.swept_at = now
        is_fine_tuning = job.kind == JobKind.FINE_TUNING
        product = model_key(job, run.fence) if is_fine_tuning else result_file_key(job.id, run.fence)
        found.append((f"{run_prefix(job.id, run.fence)}/checkpoints", product))
    session.flush()
    return found


def is_named(session: Session, uri: str) -> bool:
    """Whether a row says that there is this model, checkpoint or file of answers."""
    tables = (Model, Checkpoint, ResultFile)
    return any(session.scalar(select(exists().where(table.artifact_uri == uri))) for table in tables)


def _drop_files(session: Session, days: float | None) -> list[str]:
    """Files that no unfinished job needs."""
    if days is None:
        return []
    user = exists().where(
        Job.owner == File.owner,
        Job.status.not_in(FINISHED),
        or_(Job.training_file == File.id, Job.validation_file == File.id),
    )
    before = database_now(session) - timedelta(days=days)
    # The lock excludes a job that is being created with the file; it waits, and then does not find it.
    statement = select(File).where(File.created_at < before, ~user).limit(MAX_ROWS)
    return _drop(session, list(session.scalars(statement.with_for_update(skip_locked=True))))


def _drop_checkpoints(session: Session, days: float | None) -> list[str]:
    """Resume points of jobs that ended so long ago; a retry of such a job starts anew.

    Those of a classification that has succeeded go in any case: nothing else comes of them than its answers.
    """
    is_due = and_(Job.kind == JobKind.CLASSIFICATION, Job.status == JobStatus.SUCCEEDED)
    if days is not None:
        before = database_now(session) - timedelta(days=days)
        is_due = or_(is_due, and_(Job.status.in_(FINISHED), Job.finished_at < before))
    statement = (
        select(Checkpoint)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(is_due)
        .limit(MAX_ROWS)
        .with_for_update(of=Job, skip_locked=True)
    )
    return _drop(session, list(session.scalars(statement)))


def _drop_models(session: Session, days: float | None) -> list[str]:
    """Models that no alias points to and no classification needs."""
    if days is None:
        return []
    before = database_now(session) - timedelta(days=days)
    is_named = exists().where(Alias.owner == Model.owner, Alias.model_id == Model.id)
    is_asked = exists().where(asks_model(Model.owner, Model.id))
    statement = select(Model).where(Model.created_at < before, ~is_named, ~is_asked).limit(MAX_ROWS)
    return _drop(session, list(session.scalars(statement.with_for_update(skip_locked=True))))


def _drop_result_files(session: Session, days: float | None) -> list[str]:
    """Answers of classifications."""
    if days is None:
        return []
    before = database_now(session) - timedelta(days=days)
    statement = select(ResultFile).where(ResultFile.created_at < before).limit(MAX_ROWS)
    return _drop(session, list(session.scalars(statement.with_for_update(skip_locked=True))))


def _drop(session: Session, rows: list[File] | list[Checkpoint] | list[Model] | list[ResultFile]) -> list[str]:
    uris = [row.artifact_uri for row in rows]
    for row in rows:
        session.delete(row)
    session.flush()
    return uris
