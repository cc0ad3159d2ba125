"""What an owner has used up: GPU seconds of this month, and stored bytes; counted in SQL at each claim and each POST.

A run counts from its claim to its end (or until now) on each of its devices; a worker without a GPU is one device. The
month is the calendar's, in UTC; of a run that began before it, only what lies in it counts. Stored bytes are those of
uploaded files, checkpoints, models and answers of classifications.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, and_, case, func, literal, not_, or_, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from alignclip_store.database import database_now
from alignclip_store.errors import QuotaExceeded
from alignclip_store.events import record_event
from alignclip_store.job_status import JobStatus
from alignclip_store.settings import Settings
from alignclip_store.tables import Checkpoint, File, Job, Model, Moment, ResultFile, Run, UploadPart

OVER_QUOTA = "over_quota"  # phase of a queued job whose owner has used up a quota
MAX_ROWS = 100  # that are told of it in one transaction


class _SecondsBetween(FunctionElement[float]):
    """Seconds from the first time to the second."""

    type = Float()
    inherit_cache = True


@compiles(_SecondsBetween, "sqlite")
def _on_sqlite(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"((julianday({end}) - julianday({start})) * 86400.0)"


@compiles(_SecondsBetween, "postgresql")
def _on_postgresql(element: _SecondsBetween, compiler: SQLCompiler, **options: Any) -> str:
    start, end = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(extract(epoch FROM ({end}) - ({start})) AS double precision)"


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """The first moment of the month, and of the next one."""
    start = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)


def used_gpu_seconds(session: Session, owner: str) -> float:
    """GPU seconds of the owner's runs in this month."""
    now = database_now(session)
    return float(session.scalar(select(_gpu_seconds(literal(owner), now))) or 0.0)


def used_bytes(session: Session, owner: str) -> int:
    """Bytes of the owner's files, parts of uploads, checkpoints, models and answers of classifications."""
    return int(session.scalar(select(_stored_bytes(literal(owner)))) or 0)


def require_quota(session: Session, owner: str, settings: Settings) -> None:
    """Raises `QuotaExceeded` when the owner has nothing left for another run."""
    reasons = list(_used_up(session, owner, settings))
    if reasons:
        raise QuotaExceeded(f"{' '.join(reasons)} No job can be created or queued again until then.")


def is_within_quota(settings: Settings, now: datetime) -> ColumnElement[bool]:
    """Whether the owner of a `Job` has something left: a condition for who claims it."""
    conditions: list[ColumnElement[bool]] = []
    if settings.max_gpu_seconds_per_month is not None:
        conditions.append(_gpu_seconds(Job.owner, now) < settings.max_gpu_seconds_per_month)
    if settings.max_stored_bytes is not None:
        conditions.append(_stored_bytes(Job.owner) < settings.max_stored_bytes)
    return and_(true(), *conditions)


def review_waiting_jobs(session: Session, settings: Settings) -> None:
    """Tell waiting jobs that no worker may claim them, and why; and those that wait for a worker again."""
    if settings.max_gpu_seconds_per_month is None and settings.max_stored_bytes is None:
        return
    is_within = is_within_quota(settings, database_now(session))
    is_told = Job.phase == OVER_QUOTA
    changed = (
        select(Job)
        .where(Job.status == JobStatus.QUEUED, or_(and_(is_told, is_within), and_(not_(is_told), not_(is_within))))
        .order_by(Job.created_at, Job.id)
        .limit(MAX_ROWS)
        .with_for_update(skip_locked=True)
    )
    for job in session.scalars(changed.execution_options(populate_existing=True)).all():
        reasons = list(_used_up(session, job.owner, settings))
        job.phase = OVER_QUOTA if reasons else JobStatus.QUEUED
        message = f"The job waits: {' '.join(reasons)}" if reasons else "The job waits for a worker again."
        record_event(session, job.owner, job.id, "warn" if reasons else "info", message)


def _used_up(session: Session, owner: str, settings: Settings) -> Iterator[str]:
    gpu_seconds, num_bytes = settings.max_gpu_seconds_per_month, settings.max_stored_bytes
    if gpu_seconds is not None and (used := used_gpu_seconds(session, owner)) >= gpu_seconds:
        _, next_month = month_of(database_now(session))
        yield (
            f"{used:,.0f} GPU seconds are used of the {gpu_seconds:,.0f} that this month has; the next begins on "
            f"{next_month:%Y-%m-%d} (UTC)."
        )
    if num_bytes is not None and (stored := used_bytes(session, owner)) >= num_bytes:
        yield f"{stored:,} bytes are stored of {num_bytes:,} that may be; delete files, checkpoints, models or answers."


def _gpu_seconds(owner: Any, now: datetime) -> ColumnElement[float]:
    start, _ = (literal(moment, Moment) for moment in month_of(now))
    end = func.coalesce(Run.ended_at, literal(now, Moment))
    begin = case((Run.started_at < start, start), else_=Run.started_at)
    total = func.coalesce(func.sum(_SecondsBetween(begin, end) * Run.num_devices), 0.0)
    return select(total).where(Run.owner == owner, end > start).correlate(Job).scalar_subquery()


def _stored_bytes(owner: Any) -> ColumnElement[int]:
    files, parts, checkpoints, models, results = (
        select(func.coalesce(func.sum(table.num_bytes), 0)).where(table.owner == owner).correlate(Job).scalar_subquery()
        for table in (File, UploadPart, Checkpoint, Model, ResultFile)
    )
    return files + parts + checkpoints + models + results
