"""The register of workers: each says that it lives, and that it takes wake-ups; from both one sees who is silent.

A worker whose process runs but which takes no wake-up, because its connection to the broker hangs for example, looks
alive to everybody who looks at processes. It is noticed by the job that it leaves waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from alignclip_store.claims import WorkerIdentity
from alignclip_store.database import database_now
from alignclip_store.job_status import CLAIMED, JobStatus
from alignclip_store.limits import owner_may_run
from alignclip_store.quotas import is_within_quota
from alignclip_store.settings import Settings
from alignclip_store.tables import Event, Job, Worker
from alignclip_store.upsert import insert_or_replace

BEAT_SECONDS = 10.0  # between two signs of life
GONE = timedelta(minutes=1)  # without one
FORGOTTEN = timedelta(days=1)  # without one: no longer listed
NUM_WAKES = 3  # that an idle worker may miss while a job waits which it could claim

WorkerStatus = Literal["busy", "idle", "silent", "gone"]
STATUSES: tuple[WorkerStatus, ...] = ("busy", "idle", "silent", "gone")


@dataclass(frozen=True, kw_only=True)
class WorkerState:
    """One worker as its signs of life and its lease show it.

    busy     it holds a job under a lease
    idle     its process runs, and it holds none
    silent   its process runs, but it leaves a job waiting, or let its lease lapse
    gone     no sign of life for a minute
    """

    name: str
    host: str
    device: str
    status: WorkerStatus
    job_id: str | None
    seen_at: datetime
    answered_at: datetime
    gpus: Sequence[Mapping[str, Any]]


def record_life(
    session: Session,
    identity: WorkerIdentity,
    *,
    gpus: Sequence[Mapping[str, Any]] | None = None,
    answered: bool = False,
) -> None:
    """The worker's process runs; `answered`: it took a wake-up just now. `gpus`: their memory; None: as told before."""
    now = database_now(session)
    values = {
        "name": node_of(identity.name),
        "host": identity.host,
        "device": identity.device,
        "started_at": now,
        "seen_at": now,
        "answered_at": now,
        "gpus": list(gpus or ()),
    }
    replaced = ["host", "device", "seen_at"]
    replaced += ["gpus"] if gpus is not None else []
    replaced += ["answered_at"] if answered else []
    session.execute(insert_or_replace(session, Worker, unique=("name",), replaced=replaced), [values])


def forget_worker(session: Session, name: str) -> None:
    """It was shut down in order."""
    session.execute(delete(Worker).where(Worker.name == node_of(name)))


def forget_gone_workers(session: Session) -> None:
    """Those that gave no sign of life for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < database_now(session) - FORGOTTEN))


def list_workers(session: Session, settings: Settings) -> list[WorkerState]:
    """All that are not forgotten, by name."""
    now = database_now(session)
    held = {
        node_of(str(worker)): (job_id, lease_until)
        for worker, job_id, lease_until in session.execute(
            select(Job.worker, Job.id, Job.lease_until).where(Job.status.in_(CLAIMED))
        ).tuples()
    }
    is_left_waiting = _waits_since(session, settings, now)
    found = []
    for row in session.scalars(select(Worker).where(Worker.seen_at > now - FORGOTTEN).order_by(Worker.name)):
        job_id, lease_until = held.get(row.name, (None, None))
        status: WorkerStatus = "idle"
        if lease_until is not None:
            status = "silent" if lease_until < now else "busy"
        elif row.seen_at < now - GONE:
            status = "gone"
        elif is_left_waiting is not None and row.answered_at < is_left_waiting:
            status = "silent"
        found.append(
            WorkerState(
                name=row.name,
                host=row.host,
                device=row.device,
                status=status,
                job_id=job_id,
                seen_at=row.seen_at,
                answered_at=row.answered_at,
                gpus=row.gpus,
            )
        )
    return found


def node_of(worker: str) -> str:
    """The name of a worker without the number of its process."""
    return worker.partition("/")[0]


def _waits_since(session: Session, settings: Settings, now: datetime) -> datetime | None:
    """Since when a job waits that every idle worker could claim, once it was woken for it often enough; else None."""
    last_event = select(func.max(Event.created_at)).where(Event.job_id == Job.id).correlate(Job).scalar_subquery()
    waiting = select(func.min(func.coalesce(last_event, Job.created_at), type_=Job.created_at.type)).where(
        Job.status == JobStatus.QUEUED, owner_may_run(settings.max_running_jobs), is_within_quota(settings, now)
    )
    since = session.scalar(waiting)
    is_long = since is not None and since < now - timedelta(seconds=NUM_WAKES * settings.wake_again_seconds)
    return since if is_long else None
