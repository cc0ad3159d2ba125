"""The log of a job, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import EventNotFound, JobNotFound
from alignclip_store.job_kinds import JobKind
from alignclip_store.tables import Event, Job

Level = Literal["info", "warn", "error"]
EventType = Literal["message", "metrics"]


def record_event(
    session: Session,
    owner: str,
    job_id: str,
    level: Level,
    message: str,
    type: EventType = "message",
    data: Mapping[str, Any] | None = None,
) -> Event:
    """Add an event to the owner's job."""
    # The row lock makes the numbers of a job's events rise in the order of their commits, so that a reader who asks
    # for what came after a number misses nothing.
    found = session.scalar(select(Job.id).where(Job.id == job_id, Job.owner == owner).with_for_update())
    if found is None:
        raise JobNotFound(f"No job {job_id!r}.")
    event = Event(
        owner=owner,
        job_id=job_id,
        created_at=database_now(session),
        level=level,
        type=type,
        message=message,
        data=dict(data) if data is not None else None,
    )
    session.add(event)
    session.flush()
    return event


def list_events(
    session: Session,
    owner: str,
    job_id: str,
    *,
    kind: JobKind = JobKind.FINE_TUNING,
    after: int | None = None,
    limit: int = 20,
    newest_first: bool = True,
) -> tuple[list[Event], bool]:
    """Up to `limit` events of a job of that kind behind the event number `after`, and whether more follow."""
    _require_job(session, owner, job_id, kind)
    conditions = [Event.owner == owner, Event.job_id == job_id]
    if after is not None:
        if session.scalar(select(Event.id).where(*conditions, Event.id == after)) is None:
            raise EventNotFound(f"Job {job_id!r} has no event {after}.", param="after")
        conditions.append(Event.id < after if newest_first else Event.id > after)
    order = Event.id.desc() if newest_first else Event.id
    rows = list(session.scalars(select(Event).where(*conditions).order_by(order).limit(limit + 1)))
    return rows[:limit], len(rows) > limit


def _require_job(session: Session, owner: str, job_id: str, kind: JobKind) -> None:
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.owner == owner, Job.kind == kind)) is None:
        raise JobNotFound(f"No job {job_id!r}.")
