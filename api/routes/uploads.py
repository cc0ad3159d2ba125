"""Large files in parts: OpenAI's /uploads. An unmodified client sends any file with `uploads.upload_file_chunked`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from alignclip_store import files, tables, uploads
from alignclip_store.audit import record_change
from alignclip_store.database import transaction
from alignclip_store.dataset_files import open_container
from alignclip_store.datasets import dataset_limits
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.ids import new_id
from alignclip_store.limits import require_room_for_bytes
from api.answers import FileAnswer, seconds
from api.authentication import Caller
from api.dependencies import CallerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS, RequestInvalid
from api.resources import Resources
from api.schemas import RequestBody
from api.uploads import PartDep

MAX_PART_BYTES = 64 << 20  # OpenAI's
COPY_BYTES = 1 << 20

router = APIRouter(prefix="/v1/uploads", tags=["files"])

_PART_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary", "description": "At most 64 MiB."}},
                }
            }
        },
    }
}


class UploadRequest(RequestBody):
    """A file that will come in parts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"filename": "pets.tar", "purpose": "fine-tune", "bytes": 10, "mime_type": "application/x-tar"}
            ]
        },
    )

    filename: str = Field(min_length=1, max_length=1024)
    purpose: Literal["fine-tune"]
    bytes: int = Field(ge=1, description="Of the whole file.")
    mime_type: str = Field(max_length=255, description="Not used: content decides.")
    expires_after: None = Field(None, description="Files do not expire here; delete them.")


class CompleteRequest(RequestBody):
    """The parts in their order."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"part_ids": ["part-1", "part-2"]}]})

    part_ids: list[str] = Field(min_length=1, max_length=100_000)
    md5: str | None = Field(None, description="Of the whole file, in hex: compared when it is given.")


class UploadAnswer(BaseModel):
    """An upload."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileAnswer | None = Field(description="What a completed upload became; null if it is deleted since.")

    @classmethod
    def of(cls, upload: tables.Upload, file: tables.File | None = None) -> UploadAnswer:
        return cls.model_validate(
            {
                "id": upload.id,
                "bytes": upload.num_bytes,
                "created_at": seconds(upload.created_at),
                "expires_at": seconds(upload.expires_at),
                "filename": upload.filename,
                "purpose": upload.purpose,
                "status": upload.status,
                "file": FileAnswer.of(file) if file is not None else None,
            }
        )


class PartAnswer(BaseModel):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_upload(request: UploadRequest, caller: CallerDep, resources: ResourcesDep) -> UploadAnswer:
    """Announce a file that comes in parts; it is kept for a day until it is completed."""
    limit = resources.settings.max_dataset_bytes
    if request.bytes > limit:
        raise RequestInvalid(f"The file has {request.bytes:,} bytes; at most {limit:,} are allowed.", param="bytes")
    with transaction(resources.engine) as session:
        require_room_for_bytes(session, caller.owner, request.bytes, resources.settings)
        upload = uploads.create_upload(
            session, caller.owner, filename=request.filename, purpose=request.purpose, num_bytes=request.bytes
        )
        record_change(session, caller.actor, "upload.create", upload.id, after={"num_bytes": upload.num_bytes})
        return UploadAnswer.of(upload)


@router.post("/{upload_id}/parts", openapi_extra=_PART_BODY, responses=BODY_ERROR_ANSWERS)
def add_upload_part(upload_id: str, caller: CallerDep, resources: ResourcesDep, part: PartDep) -> PartAnswer:
    """Keep one part. Parts may come in any order and side by side."""
    with transaction(resources.engine) as session:
        uploads.lock_pending(session, caller.owner, upload_id)
    if not 0 < part.num_bytes <= MAX_PART_BYTES:
        raise RequestInvalid(
            f"The part has {part.num_bytes:,} bytes; a part has 1 to {MAX_PART_BYTES:,}.", param="data"
        )
    part_id = new_id("part")
    uri = resources.artifacts.put_file(part.path, f"uploads/{upload_id}/{part_id}")
    try:
        with transaction(resources.engine) as session:
            require_room_for_bytes(session, caller.owner, part.num_bytes, resources.settings)
            row = uploads.add_part(session, caller.owner, upload_id, part_id=part_id, num_bytes=part.num_bytes, uri=uri)
            record_change(session, caller.actor, "upload.add_part", upload_id, after={"part": part_id})
            return PartAnswer(id=part_id, created_at=seconds(row.created_at), upload_id=upload_id)
    except Exception:
        resources.artifacts.delete(uri)
        raise


@router.post("/{upload_id}/complete", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def complete_upload(
    upload_id: str, request: CompleteRequest, caller: CallerDep, resources: ResourcesDep
) -> UploadAnswer:
    """Put the parts together: the file is checked as one that came in one piece. A repeat gives the same file."""
    with transaction(resources.engine) as session:
        upload = uploads.lock_upload(session, caller.owner, upload_id)
        if upload.status == "completed":
            return UploadAnswer.of(upload, _file_of(session, upload))
        upload = uploads.lock_pending(session, caller.owner, upload_id)
        uris = [part.artifact_uri for part in uploads.parts_of(session, upload, request.part_ids)]
        filename = upload.filename
    with NamedTemporaryFile(dir=resources.scratch, prefix="upload-") as whole:
        path = Path(whole.name)
        sha256 = _put_together(resources, uris, path, request.md5)
        _check_content(resources, path, filename)
        answer, uris = _store(resources, caller, upload_id, path, sha256)
    for uri in uris:
        resources.artifacts.delete(uri)
    return answer


@router.post("/{upload_id}/cancel")
def cancel_upload(upload_id: str, caller: CallerDep, resources: ResourcesDep) -> UploadAnswer:
    """Forget the parts of an upload that is not completed."""
    with transaction(resources.engine) as session:
        upload, uris = uploads.cancel_upload(session, caller.owner, upload_id)
        record_change(session, caller.actor, "upload.cancel", upload_id)
        answer = UploadAnswer.of(upload)
    for uri in uris:
        resources.artifacts.delete(uri)
    return answer


def _file_of(session: Session, upload: tables.Upload) -> tables.File | None:
    try:
        return files.get_file(session, upload.owner, upload.file_id or "")
    except FileNotFound:
        return None


def _put_together(resources: Resources, uris: Sequence[str], whole: Path, md5: str | None) -> str:
    """Write the parts one after another; the sha256 of the whole. Raises `RequestInvalid` for another md5."""
    sha256, found_md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with whole.open("wb") as target:
        for uri in uris:
            with resources.artifacts.open(uri) as part:
                while chunk := part.read(COPY_BYTES):
                    target.write(chunk)
                    sha256.update(chunk)
                    found_md5.update(chunk)
    if md5 is not None and md5.lower() != found_md5.hexdigest():
        raise RequestInvalid(f"The md5 of the parts is {found_md5.hexdigest()}, not {md5}.", param="md5")
    return sha256.hexdigest()


def _check_content(resources: Resources, path: Path, filename: str) -> None:
    with path.open("rb") as content:
        try:
            open_container(filename, content, dataset_limits(resources.settings))
        except DatasetRejected as error:
            raise DatasetRejected(f"{filename!r}: {error.message}", param="file") from error


def _store(
    resources: Resources, caller: Caller, upload_id: str, path: Path, sha256: str
) -> tuple[UploadAnswer, list[str]]:
    """The completed upload, and where its parts are."""
    file_id, num_bytes = new_id("file"), path.stat().st_size
    uri = resources.artifacts.put_file(path, f"files/{file_id}")
    try:
        with transaction(resources.engine) as session:
            upload = uploads.lock_pending(session, caller.owner, upload_id)
            file = files.create_file(  # takes the room that its parts had
                session,
                caller.owner,
                file_id=file_id,
                filename=upload.filename,
                purpose=upload.purpose,
                num_bytes=num_bytes,
                sha256=sha256,
                artifact_uri=uri,
            )
            parts = uploads.finish_upload(session, upload, file)
            after: dict[str, Any] = {"file": file_id, "num_bytes": num_bytes, "sha256": sha256}
            record_change(session, caller.actor, "upload.complete", upload_id, after=after)
            return UploadAnswer.of(upload, file), parts
    except Exception:
        resources.artifacts.delete(uri)
        raise
