"""Requests that came before: a client that lost an answer sends its POST again and must not get a second row."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.job_kinds import JobKind
from alignclip_store.tables import File, Job

REMEMBERED = timedelta(minutes=15)  # longer than any client goes on trying


def find_keyed_job(session: Session, owner: str, kind: JobKind, idempotency_key: str) -> Job | None:
    """The owner's job of that kind that was lately created under this key."""
    return _newest_job(session, owner, kind, Job.idempotency_key == idempotency_key)


def find_repeated_job(session: Session, owner: str, kind: JobKind, request_sha256: str) -> Job | None:
    """The owner's newest job of that kind that was lately created from the very same body."""
    return _newest_job(session, owner, kind, Job.request_sha256 == request_sha256)


def find_repeated_file(session: Session, owner: str, *, filename: str, sha256: str) -> File | None:
    """The owner's newest file of lately with the same name and content."""
    since = database_now(session) - REMEMBERED
    conditions = (File.owner == owner, File.filename == filename, File.sha256 == sha256, File.created_at >= since)
    return session.scalar(select(File).where(*conditions).order_by(File.created_at.desc()).limit(1))


def _newest_job(session: Session, owner: str, kind: JobKind, condition: ColumnElement[bool]) -> Job | None:
    since = database_now(session) - REMEMBERED
    conditions = (Job.owner == owner, Job.kind == kind, Job.created_at >= since, condition)
    return session.scalar(select(Job).where(*conditions).order_by(Job.created_at.desc()).limit(1))
