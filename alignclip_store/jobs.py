"""The client's view of a job: create, read, cancel; `pausing` has the rest. What a worker writes is in `runs`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, and_, cast, exists, func, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import IllegalTransition, JobNotFound
from alignclip_store.events import record_event
from alignclip_store.files import lock_files_of
from alignclip_store.ids import new_id
from alignclip_store.job_kinds import FACTS, JobKind
from alignclip_store.job_status import CLAIMED, JobStatus, sources_of
from alignclip_store.paging import list_page
from alignclip_store.tables import Job, Metric, Run
from alignclip_store.webhooks import announce_end


def create_job(
    session: Session,
    owner: str,
    *,
    kind: JobKind = JobKind.FINE_TUNING,
    config: Mapping[str, Any],
    request: Mapping[str, Any],
    training_file: str,
    validation_file: str | None,
    test_datasets: Sequence[Mapping[str, Any]] = (),
    suffix: str | None,
    labels: Mapping[str, str],
    similarity_id: str,
    num_steps: int,
    base_model: str,
    model_id: str | None = None,
    request_sha256: str | None = None,
    idempotency_key: str | None = None,
    priority: int = 0,
) -> Job:
    """A queued job and its first event. Its files, when they are file ids, must exist: `FileNotFound`.

    `test_datasets`: each has a name, a dataset reference, and the words for its class folders or None. `model_id`: of
    the model that a classification asks.
    """
    job = Job(
        id=new_id(FACTS[kind].id_prefix),
        kind=kind,
        owner=owner,
        created_at=database_now(session),
        status=JobStatus.QUEUED,
        base_model=base_model,
        config=dict(config),
        request=dict(request),
        request_sha256=request_sha256,
        idempotency_key=idempotency_key,
        training_file=training_file,
        validation_file=validation_file,
        test_datasets=[dict(test) for test in test_datasets],
        suffix=suffix,
        labels=dict(labels),
        similarity_id=similarity_id,
        num_steps=num_steps,
        model_id=model_id,
        priority=priority,
    )
    lock_files_of(session, job)
    session.add(job)
    session.flush()
    record_event(session, owner, job.id, "info", f"Created {FACTS[kind].noun}: {job.id}")
    return job


def get_job(
    session: Session, owner: str, job_id: str, *, kind: JobKind = JobKind.FINE_TUNING, param: str | None = None
) -> Job:
    """The owner's job of that kind. Raises `JobNotFound`, also for another owner's and for one of another kind."""
    job = session.scalar(select(Job).where(Job.id == job_id, Job.owner == owner, Job.kind == kind))
    if job is None:
        raise JobNotFound(f"No job {job_id!r}.", param=param)
    return job


def lock_job(session: Session, owner: str, job_id: str, *, kind: JobKind = JobKind.FINE_TUNING) -> Job:
    """The owner's job of that kind, held until the transaction ends. Raises `JobNotFound`."""
    statement = select(Job).where(Job.id == job_id, Job.owner == owner, Job.kind == kind)
    job = session.scalar(statement.with_for_update().execution_options(populate_existing=True))
    if job is None:
        raise JobNotFound(f"No job {job_id!r}.")
    return job


def list_jobs(
    session: Session,
    owner: str,
    *,
    kind: JobKind = JobKind.FINE_TUNING,
    after: str | None = None,
    limit: int = 20,
    labels: Mapping[str, str] | None = None,
    without_labels: bool = False,
) -> tuple[list[Job], bool]:
    """Up to `limit` jobs of that kind behind the job `after`, newest first, and whether more follow.

    Only those that carry all the `labels` given; `without_labels`: only those that carry none.
    """
    conditions = [Job.owner == owner, Job.kind == kind]
    conditions += [_has_label(session, key, value) for key, value in (labels or {}).items()]
    if without_labels:
        conditions.append(cast(Job.labels, String) == "{}")
    mark = get_job(session, owner, after, kind=kind, param="after") if after is not None else None
    return list_page(session, Job, conditions, after=mark, limit=limit)


def request_cancel(session: Session, owner: str, job_id: str, *, kind: JobKind = JobKind.FINE_TUNING) -> Job:
    """Cancel a waiting job at once; leave the wish with a claimed one, whose worker acts on it.

    Asking again changes nothing. Raises `IllegalTransition` for a job that ended in another way.
    """
    job = lock_job(session, owner, job_id, kind=kind)
    if job.status == JobStatus.CANCELLED or (job.status in CLAIMED and job.cancel_requested_at):
        return job
    now = database_now(session)
    if job.status in CLAIMED:
        job.cancel_requested_at = now
        record_event(session, owner, job_id, "info", "Cancellation requested; the worker is stopping the job.")
    elif job.status in sources_of(JobStatus.CANCELLED):
        job.status, job.phase = JobStatus.CANCELLED, JobStatus.CANCELLED
        job.cancel_requested_at = job.finished_at = now
        record_event(session, owner, job_id, "info", "The job has been cancelled.")
        announce_end(session, job)
    else:
        raise IllegalTransition(f"Job {job_id!r} has {job.status}; only a job that has not ended can be cancelled.")
    session.flush()
    return job


def list_runs(session: Session, owner: str, job_id: str, *, kind: JobKind = JobKind.FINE_TUNING) -> list[Run]:
    """Every attempt at the job of that kind, oldest first."""
    get_job(session, owner, job_id, kind=kind)
    return list(session.scalars(select(Run).where(Run.owner == owner, Run.job_id == job_id).order_by(Run.fence)))


def list_metrics(
    session: Session,
    owner: str,
    job_id: str,
    *,
    kind: str | None = None,
    after_step: int | None = None,
    limit: int = 1000,
) -> tuple[list[Metric], bool]:
    """The metrics of up to `limit` steps behind `after_step`, in order, and whether more follow.

    The limit counts steps, so that a page never ends between two kinds of one step.
    """
    get_job(session, owner, job_id)
    conditions = [Metric.owner == owner, Metric.job_id == job_id]
    if kind is not None:
        conditions.append(Metric.kind == kind)
    if after_step is not None:
        conditions.append(Metric.step > after_step)
    steps = list(
        session.scalars(select(Metric.step).where(*conditions).distinct().order_by(Metric.step).limit(limit + 1))
    )
    if not steps[:limit]:
        return [], bool(steps)
    conditions.append(Metric.step <= steps[:limit][-1])
    rows = session.scalars(select(Metric).where(*conditions).order_by(Metric.step, Metric.kind))
    return list(rows), len(steps) > limit


def _has_label(session: Session, key: str, value: str) -> ColumnElement[bool]:
    """Whether the job carries the label. The key is the client's: it must not become part of a JSON path."""
    if session.get_bind().dialect.name == "postgresql":
        return type_coerce(Job.labels, JSONB).contains({key: value})
    pair = func.json_each(Job.labels).table_valued("key", "value")
    return exists().where(and_(pair.c.key == key, pair.c.value == value)).correlate(Job)
