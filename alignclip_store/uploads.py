"""Uploads: large files in parts, one request each, as OpenAI's /uploads has them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import UploadNotFound, UploadRefused
from alignclip_store.ids import new_id
from alignclip_store.tables import File, Upload, UploadPart

KEPT = timedelta(days=1)  # of an upload that is not completed; OpenAI's hour is short for a dataset
MAX_PENDING = 100  # uploads of one owner
MAX_ROWS = 100  # that one transaction lets expire


def create_upload(session: Session, owner: str, *, filename: str, purpose: str, num_bytes: int) -> Upload:
    """A pending upload. Raises `UploadRefused` when too many are pending."""
    pending = select(func.count()).where(Upload.owner == owner, Upload.status == "pending")
    if (session.scalar(pending) or 0) >= MAX_PENDING:
        raise UploadRefused(f"{MAX_PENDING} uploads are pending; complete or cancel some.")
    now = database_now(session)
    upload = Upload(
        id=new_id("upload"),
        owner=owner,
        created_at=now,
        expires_at=now + KEPT,
        filename=filename,
        purpose=purpose,
        num_bytes=num_bytes,
        status="pending",
    )
    session.add(upload)
    session.flush()
    return upload


def lock_upload(session: Session, owner: str, upload_id: str) -> Upload:
    """The owner's upload, held until the transaction ends. Raises `UploadNotFound`."""
    upload = session.scalar(select(Upload).where(Upload.id == upload_id, Upload.owner == owner).with_for_update())
    if upload is None:
        raise UploadNotFound(f"No upload {upload_id!r}.")
    return upload


def lock_pending(session: Session, owner: str, upload_id: str) -> Upload:
    """The same; raises `UploadRefused` unless it is pending and has not expired."""
    upload = lock_upload(session, owner, upload_id)
    if upload.status == "pending" and upload.expires_at < database_now(session):
        upload.status = "expired"
    if upload.status != "pending":
        raise UploadRefused(f"Upload {upload_id!r} is {upload.status}; create a new one.")
    return upload


def add_part(session: Session, owner: str, upload_id: str, *, part_id: str, num_bytes: int, uri: str) -> UploadPart:
    """A row for bytes that are stored. Raises `UploadRefused` for more bytes than the upload was announced with.

    Parts that a client sent twice count once too often, so twice the bytes may come.
    """
    upload = lock_pending(session, owner, upload_id)
    stored = session.scalar(select(func.sum(UploadPart.num_bytes)).where(UploadPart.upload_id == upload_id)) or 0
    if num_bytes > upload.num_bytes or stored + num_bytes > 2 * upload.num_bytes:
        raise UploadRefused(
            f"The parts are more than the {upload.num_bytes:,} bytes that were announced.", param="data"
        )
    now = database_now(session)
    part = UploadPart(
        id=part_id, owner=owner, upload_id=upload_id, created_at=now, num_bytes=num_bytes, artifact_uri=uri
    )
    session.add(part)
    session.flush()
    return part


def parts_of(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    """The named parts in this order. Raises `UploadRefused` when one is unknown, or they are not the whole."""
    found = session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))
    known = {part.id: part for part in found}
    for part_id in part_ids:
        if part_id not in known:
            raise UploadRefused(f"Upload {upload.id!r} has no part {part_id!r}.", param="part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise UploadRefused("part_ids names a part twice.", param="part_ids")
    parts = [known[part_id] for part_id in part_ids]
    num_bytes = sum(part.num_bytes for part in parts)
    if num_bytes != upload.num_bytes:
        raise UploadRefused(
            f"The parts have {num_bytes:,} bytes; {upload.num_bytes:,} were announced.", param="part_ids"
        )
    return parts


def finish_upload(session: Session, upload: Upload, file: File) -> list[str]:
    """The upload became the file; returns where its parts are, to be deleted after the commit."""
    upload.status, upload.file_id = "completed", file.id
    return _drop_parts(session, upload)


def cancel_upload(session: Session, owner: str, upload_id: str) -> tuple[Upload, list[str]]:
    """The cancelled upload and where its parts are. A repeat changes nothing; a completed one is refused."""
    upload = lock_upload(session, owner, upload_id)
    if upload.status == "completed":
        raise UploadRefused(f"Upload {upload_id!r} is completed; delete the file {upload.file_id!r} instead.")
    upload.status = "cancelled"
    return upload, _drop_parts(session, upload)


def drop_expired_uploads(session: Session) -> list[str]:
    """Uploads that were never completed in time are expired; returns where their parts are."""
    conditions = (Upload.status == "pending", Upload.expires_at < database_now(session))
    statement = select(Upload).where(*conditions).limit(MAX_ROWS).with_for_update(skip_locked=True)
    uris = []
    for upload in session.scalars(statement).all():
        upload.status = "expired"
        uris += _drop_parts(session, upload)
    return uris


def _drop_parts(session: Session, upload: Upload) -> list[str]:
    parts = session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id)).all()
    for part in parts:
        session.delete(part)
    session.flush()
    return [part.artifact_uri for part in parts]
