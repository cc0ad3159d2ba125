"""Dataset archives: OpenAI's /files."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from alignclip_store import files, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.dataset_files import open_container
from alignclip_store.datasets import dataset_limits
from alignclip_store.errors import DatasetRejected
from alignclip_store.ids import new_id
from alignclip_store.limits import require_room_for_bytes
from alignclip_store.repeats import find_repeated_file
from alignclip_store.settings import Settings
from api.answers import DeletedAnswer, FileAnswer, ListAnswer, page
from api.dependencies import After, CallerDep, IsRetryDep, OwnerDep, ResourcesDep
from api.errors import BODY_ERROR_ANSWERS, RequestInvalid
from api.streaming import stream_artifact
from api.uploads import Upload, UploadDep

PURPOSE = "fine-tune"
FILE_KINDS = "A zip, tar or tar.gz of images, a WebDataset shard, or a Parquet or .jsonl file with images in it."

router = APIRouter(prefix="/v1/files", tags=["files"])

_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": FILE_KINDS},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_UPLOAD_BODY, responses=BODY_ERROR_ANSWERS)
def create_file(caller: CallerDep, resources: ResourcesDep, is_retry: IsRetryDep, upload: UploadDep) -> FileAnswer:
    """Keep a dataset for fine-tuning: a zip, a tar, a tar.gz or a Parquet file (docs/datasets.md)."""
    _check_upload(upload, resources.settings)
    owner = caller.owner
    if is_retry:
        with reading(resources.engine) as session:
            kept = find_repeated_file(session, owner, filename=upload.filename, sha256=upload.sha256)
        if kept is not None:
            return FileAnswer.of(kept)
    file_id = new_id("file")
    uri = resources.artifacts.put_file(upload.path, f"files/{file_id}{files.suffix_of(upload.filename)}")
    try:
        with transaction(resources.engine) as session:
            require_room_for_bytes(session, owner, upload.num_bytes, resources.settings)
            file = files.create_file(
                session,
                owner,
                file_id=file_id,
                filename=upload.filename,
                purpose=PURPOSE,
                num_bytes=upload.num_bytes,
                sha256=upload.sha256,
                artifact_uri=uri,
            )
            record_change(session, caller.actor, "file.create", file.id, after=_summary(file))
    except Exception:
        resources.artifacts.delete(uri)
        raise
    return FileAnswer.of(file)


@router.get("")
def list_files(
    owner: OwnerDep,
    resources: ResourcesDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> ListAnswer[FileAnswer]:
    """The owner's files, newest first."""
    with reading(resources.engine) as session:
        rows, has_more = files.list_files(
            session, owner, after=after, limit=limit, purpose=purpose, newest_first=order == "desc"
        )
    return page([FileAnswer.of(row) for row in rows], has_more)


@router.get("/{file_id}")
def retrieve_file(file_id: str, owner: OwnerDep, resources: ResourcesDep) -> FileAnswer:
    """One file."""
    with reading(resources.engine) as session:
        return FileAnswer.of(files.get_file(session, owner, file_id))


@router.delete("/{file_id}")
def delete_file(file_id: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete a file that no unfinished job needs."""
    with transaction(resources.engine) as session:
        file = files.delete_file(session, caller.owner, file_id)
        record_change(session, caller.actor, "file.delete", file_id, before=_summary(file))
    resources.artifacts.delete(file.artifact_uri)
    return DeletedAnswer(id=file_id, object="file")


@router.get(
    "/{file_id}/content",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes as they were sent."}},
)
def retrieve_file_content(file_id: str, owner: OwnerDep, resources: ResourcesDep) -> StreamingResponse:
    """The bytes of a file."""
    with reading(resources.engine) as session:
        file = files.get_file(session, owner, file_id)
    name = f"{file_id}{files.suffix_of(file.filename)}"
    headers = {"Content-Length": str(file.num_bytes), "Content-Disposition": f'attachment; filename="{name}"'}
    return stream_artifact(
        resources.artifacts, file.artifact_uri, media_type="application/octet-stream", headers=headers
    )


def _summary(file: tables.File) -> dict[str, object]:
    return {"num_bytes": file.num_bytes, "sha256": file.sha256}


def _check_upload(upload: Upload, settings: Settings) -> None:
    purpose = upload.fields.get("purpose")
    if purpose != PURPOSE:
        raise RequestInvalid(f"purpose is {purpose!r}; only {PURPOSE!r} is kept here.", param="purpose")
    if any(name.startswith("expires_after") for name in upload.fields):
        raise RequestInvalid("Files do not expire here; delete them.", param="expires_after")
    if not upload.num_bytes:
        raise RequestInvalid("The file is empty (0 bytes).", param="file", code="empty_file")
    with upload.path.open("rb") as archive:
        try:
            open_container(upload.filename, archive, dataset_limits(settings))
        except DatasetRejected as error:
            raise DatasetRejected(f"{upload.filename!r}: {error.message}", param="file") from error
