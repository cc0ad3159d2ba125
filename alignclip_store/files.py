"""Uploaded dataset archives."""

from __future__ import annotations

from sqlalchemy import String, cast, or_, select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import FileInUse, FileNotFound
from alignclip_store.ids import new_id
from alignclip_store.job_kinds import FACTS
from alignclip_store.job_status import FINISHED
from alignclip_store.paging import list_page
from alignclip_store.tables import File, Job

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".parquet")


def suffix_of(filename: str) -> str:
    """The end of a stored file's name: that of what was sent, .zip where it is none that we know."""
    return next((suffix for suffix in SUFFIXES if filename.lower().endswith(suffix)), ".zip")


def create_file(
    session: Session,
    owner: str,
    *,
    filename: str,
    purpose: str,
    num_bytes: int,
    sha256: str,
    artifact_uri: str,
    file_id: str | None = None,
) -> File:
    """A row for content that is complete in the artifact store; `file_id` when its key was made from one."""
    file = File(
        id=file_id or new_id("file"),
        owner=owner,
        created_at=database_now(session),
        filename=filename,
        purpose=purpose,
        num_bytes=num_bytes,
        sha256=sha256,
        artifact_uri=artifact_uri,
    )
    session.add(file)
    session.flush()
    return file


def get_file(session: Session, owner: str, file_id: str, *, param: str | None = None) -> File:
    """The owner's file. Raises `FileNotFound`, also for another owner's."""
    file = session.scalar(select(File).where(File.id == file_id, File.owner == owner))
    if file is None:
        raise FileNotFound(f"No file {file_id!r}.", param=param)
    return file


def list_files(
    session: Session,
    owner: str,
    *,
    after: str | None = None,
    limit: int = 10_000,
    purpose: str | None = None,
    newest_first: bool = True,
) -> tuple[list[File], bool]:
    """Up to `limit` files behind the file `after`, and whether more follow."""
    conditions = [File.owner == owner]
    if purpose is not None:
        conditions.append(File.purpose == purpose)
    mark = get_file(session, owner, after, param="after") if after is not None else None
    return list_page(session, File, conditions, after=mark, limit=limit, newest_first=newest_first)


def delete_file(session: Session, owner: str, file_id: str) -> File:
    """Remove the row and return it, so that the caller can delete its content after the commit.

    Raises `FileInUse` while a job that has not finished needs it.
    """
    file = lock_file(session, owner, file_id)
    user = session.scalar(
        select(Job.id)
        .where(
            Job.owner == owner,
            Job.status.not_in(FINISHED),
            or_(
                Job.training_file == file_id,
                Job.validation_file == file_id,
                cast(Job.test_datasets, String).contains(f'"{file.id}"', autoescape=True),
            ),
        )
        .limit(1)
    )
    if user is not None:
        raise FileInUse(f"Job {user!r} needs the file {file_id!r}; cancel it or wait for its end.")
    session.delete(file)
    session.flush()
    return file


def lock_file(session: Session, owner: str, file_id: str, *, param: str | None = None) -> File:
    """The owner's file, held until the transaction ends: creating a job and deleting its file exclude each other."""
    file = session.scalar(select(File).where(File.id == file_id, File.owner == owner).with_for_update())
    if file is None:
        raise FileNotFound(f"No file {file_id!r}.", param=param)
    return file


def lock_files_of(session: Session, job: Job) -> None:
    """The same of every file that a job names. Raises `FileNotFound` with the field that names it."""
    references = {FACTS[job.kind].dataset_param: job.training_file, "validation_file": job.validation_file or ""}
    references |= {f"test_datasets.{place}": test["dataset"] for place, test in enumerate(job.test_datasets)}
    for param, reference in sorted(references.items(), key=lambda item: item[1]):  # in one order: no deadlock
        if reference.startswith("file-"):
            lock_file(session, job.owner, reference, param=param)
