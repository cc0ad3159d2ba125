"""How much one owner may have: counted in SQL, inside the transaction that would add to it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, func, select, true
from sqlalchemy.orm import Session, aliased

from alignclip_store.errors import QuotaExceeded
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.quotas import require_quota, used_bytes
from alignclip_store.settings import Settings
from alignclip_store.tables import Job

LOCK_SEED = 0x414C4C4D  # keeps our advisory locks apart from others'
CLAIM_LOCK = "claim"


def require_room_in_queue(session: Session, owner: str, settings: Settings, *, num_jobs: int = 1) -> None:
    """Raises `QuotaExceeded` when so many more would be too many waiting jobs, or the owner has used up a quota."""
    require_quota(session, owner, settings)
    if settings.max_queued_jobs is None:
        return
    lock_counting(session, f"queue {owner}")
    waiting = (Job.owner == owner, Job.status == JobStatus.QUEUED)
    num_waiting = _number(session, select(func.count()).select_from(Job).where(*waiting))
    if num_waiting >= settings.max_queued_jobs:
        raise QuotaExceeded(
            f"{settings.max_queued_jobs:,} jobs wait already, and no more may; wait for some to start, or cancel some."
        )
    if num_waiting + num_jobs > settings.max_queued_jobs:
        raise QuotaExceeded(
            f"{num_jobs:,} more jobs are too many: {num_waiting:,} wait already, and {settings.max_queued_jobs:,} may."
        )


def require_room_for_bytes(session: Session, owner: str, num_bytes: int, settings: Settings) -> None:
    """Raises `QuotaExceeded` when these bytes and what the owner has stored are more than may be."""
    if settings.max_stored_bytes is None:
        return
    lock_counting(session, f"bytes {owner}")
    stored = used_bytes(session, owner)
    if stored + num_bytes > settings.max_stored_bytes:
        raise QuotaExceeded(
            f"This takes {num_bytes:,} bytes and {stored:,} are stored; at most {settings.max_stored_bytes:,} may be: "
            "delete files that no job needs, checkpoints, models or answers."
        )


def owner_may_run(max_running_jobs: int | None) -> ColumnElement[bool]:
    """Whether the owner of a `Job` has fewer jobs at work than are allowed: a condition for who claims it.

    The claiming transaction must `lock_counting(session, CLAIM_LOCK)` first, or two claims count the same jobs.
    """
    if max_running_jobs is None:
        return true()
    other = aliased(Job)
    num_running = (
        select(func.count())
        .select_from(other)
        .where(other.owner == Job.owner, other.status.in_(CLAIMED))
        .correlate(Job)
        .scalar_subquery()
    )
    return num_running < max_running_jobs


def lock_counting(session: Session, what: str) -> None:
    """Let nobody else count `what` until the transaction ends. On SQLite a transaction excludes all others anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(what, LOCK_SEED))))


def _number(session: Session, statement: Select[int]) -> int:
    return int(session.scalar(statement) or 0)
