"""A job's resume points: which are kept, which is the best, and how a client lists and deletes them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.errors import CheckpointInUse, CheckpointNotFound
from alignclip_store.job_status import FINISHED
from alignclip_store.jobs import get_job, lock_job
from alignclip_store.paging import list_page
from alignclip_store.tables import Checkpoint


def list_checkpoints(
    session: Session, owner: str, job_id: str, *, after: str | None = None, limit: int = 10
) -> tuple[list[Checkpoint], bool]:
    """Up to `limit` resume points behind the checkpoint `after`, newest first, and whether more follow."""
    get_job(session, owner, job_id)
    conditions = [Checkpoint.owner == owner, Checkpoint.job_id == job_id]
    mark = _get(session, owner, job_id, after, param="after") if after is not None else None
    return list_page(session, Checkpoint, conditions, after=mark, limit=limit)


def all_checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Every resume point of the job, by its step."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step)))


def best_checkpoint(checkpoints: Sequence[Checkpoint]) -> Checkpoint | None:
    """That whose kept weights were the most accurate on source validation; of equals the latest, None if none was."""
    known = [checkpoint for checkpoint in checkpoints if checkpoint.metrics.get("valid_accuracy") is not None]
    return max(known, key=lambda checkpoint: (checkpoint.metrics["valid_accuracy"], checkpoint.step), default=None)


def superseded_checkpoints(checkpoints: Sequence[Checkpoint], num_newest: int) -> list[Checkpoint]:
    """Those that are neither among the newest nor the best."""
    by_step = sorted(checkpoints, key=lambda checkpoint: checkpoint.step)
    best = best_checkpoint(by_step)
    return [checkpoint for checkpoint in by_step[:-num_newest] if checkpoint is not best]


def delete_checkpoint(session: Session, owner: str, job_id: str, checkpoint_id: str) -> Checkpoint:
    """Remove the row and return it, so that the caller can delete its files after the commit.

    Raises `CheckpointInUse` for the newest of a job that has not ended: the job goes on from it.
    """
    job = lock_job(session, owner, job_id)
    checkpoint = _get(session, owner, job_id, checkpoint_id)
    if job.status not in FINISHED and checkpoint is all_checkpoints(session, job_id)[-1]:
        raise CheckpointInUse(
            f"Job {job_id!r} is {job.status} and goes on from the checkpoint {checkpoint_id!r}; cancel the job first, "
            "or delete an older checkpoint."
        )
    session.delete(checkpoint)
    session.flush()
    return checkpoint


def _get(session: Session, owner: str, job_id: str, checkpoint_id: str, *, param: str | None = None) -> Checkpoint:
    checkpoint = session.scalar(
        select(Checkpoint).where(Checkpoint.owner == owner, Checkpoint.job_id == job_id, Checkpoint.id == checkpoint_id)
    )
    if checkpoint is None:
        raise CheckpointNotFound(f"Job {job_id!r} has no checkpoint {checkpoint_id!r}.", param=param)
    return checkpoint
