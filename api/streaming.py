"""A stored file as an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO

from fastapi.responses import StreamingResponse

from alignclip_store.artifacts import ArtifactStore

CHUNK_BYTES = 2**20


def stream_artifact(
    artifacts: ArtifactStore, uri: str, *, media_type: str, headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """The artifact's bytes, read while they are sent. Raises `ArtifactMissing` before anything is sent."""
    return StreamingResponse(_chunks(artifacts.open(uri)), media_type=media_type, headers=headers)


def stream_file(content: IO[bytes], *, media_type: str, headers: Mapping[str, str]) -> StreamingResponse:
    """An open file's bytes; it is closed when they are sent, or when nobody reads them any more."""
    return StreamingResponse(_chunks(content), media_type=media_type, headers=headers)


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while chunk := content.read(CHUNK_BYTES):
            yield chunk
