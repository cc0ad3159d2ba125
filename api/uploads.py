"""An uploaded file on disk: multipart is parsed while it arrives, and never held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from alignclip_core.run_dir import file_sha256
from api.dependencies import CallerDep, ResourcesDep
from api.errors import MediaTypeUnsupported, RequestInvalid

MAX_FIELDS = 20  # `purpose` and `expires_after[...]` are all that clients send


@dataclass(frozen=True)
class Upload:
    """A file that lies on disk until the request ends, and the text fields beside it."""

    path: Path
    filename: str
    num_bytes: int
    sha256: str
    fields: dict[str, str]


class DiskParser(MultiPartParser):
    """Writes file parts to named files in one folder: that of the artifacts' disk, not a small /tmp."""

    folder: Path

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part.file
        if part is not None:
            part.file.close()
            # Closed with the form, which removes it.
            named: Any = NamedTemporaryFile(dir=self.folder, prefix="upload-")  # noqa: SIM115
            part.file = named
            self._files_to_close_on_error.append(named)


def receive(field: str) -> Callable[..., AsyncIterator[Upload]]:
    """A dependency: the one file of a multipart body, in this field of the form."""

    async def receive_upload(request: Request, caller: CallerDep, resources: ResourcesDep) -> AsyncIterator[Upload]:
        """The caller is known, and may upload, before the first byte is read."""
        require_multipart(request)
        parser = DiskParser(request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS)
        parser.folder = resources.scratch
        form = await parse_form(parser)
        try:
            yield await run_in_threadpool(_describe, form, field)
        finally:
            await form.close()

    return receive_upload


UploadDep = Annotated[Upload, Depends(receive("file"))]
PartDep = Annotated[Upload, Depends(receive("data"))]


def require_multipart(request: Request) -> None:
    """Raises `MediaTypeUnsupported` for a body of another kind."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise MediaTypeUnsupported(f"The body is {kind or 'of no content type'}; send multipart/form-data.")


async def parse_form(parser: MultiPartParser) -> FormData:
    """The parsed form; `RequestInvalid` where the client's multipart is broken."""
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise RequestInvalid(f"The multipart body cannot be read: {error.message}", code="invalid_multipart") from error


def _describe(form: FormData, field: str) -> Upload:
    file = form.get(field)
    if not isinstance(file, UploadFile):
        raise RequestInvalid(f"The form has no file in its field `{field}`.", param=field)
    file.file.flush()
    path = Path(file.file.name or "")
    digest = file_sha256(path)
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return Upload(path, file.filename or "", path.stat().st_size, digest, fields)
