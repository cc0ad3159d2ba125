"""The answers of classifications, a line an image: files in the artifact store, each under the row of its job."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.errors import JobNotReady, RowNotFound
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import JobStatus
from alignclip_store.jobs import get_job
from alignclip_store.tables import Job, ResultFile


def get_result_file(session: Session, owner: str, job_id: str) -> ResultFile:
    """The answers of the owner's classification.

    Raises `JobNotFound`, `JobNotReady` before there are any, and `RowNotFound` once they were deleted.
    """
    job = get_job(session, owner, job_id, kind=JobKind.CLASSIFICATION)
    file = session.get(ResultFile, job_id)
    if file is None and job.status != JobStatus.SUCCEEDED:
        raise JobNotReady(f"The classification {job_id!r} is {job.status}; it has answers once it has succeeded.")
    if file is None:
        raise RowNotFound(f"The answers of {job_id!r} were deleted; classify the dataset again.")
    return file


def result_files_of(session: Session, jobs: Sequence[Job]) -> dict[str, ResultFile]:
    """Those that are there, by the ids of their jobs."""
    found = session.scalars(select(ResultFile).where(ResultFile.job_id.in_({job.id for job in jobs})))
    return {file.job_id: file for file in found}


def delete_result_file(session: Session, owner: str, job_id: str) -> ResultFile:
    """Remove the row and return it, so that the caller can delete its content after the commit."""
    file = get_result_file(session, owner, job_id)
    session.delete(file)
    session.flush()
    return file
