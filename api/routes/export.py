"""A model as other libraries read it."""

from __future__ import annotations

import os
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from alignclip_core.export.formats import ExportFormat
from api.dependencies import OwnerDep, ResourcesDep
from api.exporting import build_export
from api.streaming import stream_file

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get(
    "/{model:path}/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
            "description": "A zip of the format's own files, with alignclip.json (classes, templates) beside them.",
        }
    },
)
async def export_model(
    model: str,
    owner: OwnerDep,
    resources: ResourcesDep,
    export_format: Annotated[
        ExportFormat,
        Query(
            alias="format",
            description="open_clip: a folder for `local-dir:`. huggingface: one for `CLIPModel`, of a plain ViT with "
            "OpenAI's text transformer. onnx: the image tower, with class embeddings as second input.",
        ),
    ] = "open_clip",
) -> StreamingResponse:
    """A base or tuned model in the files of another library, in which it gives the same logits.

    A format that cannot hold the architecture is refused, with those that can.
    """
    content = await to_thread.run_sync(
        build_export, resources, owner, model, export_format, limiter=resources.making_limiter
    )
    headers = {
        "Content-Length": str(os.fstat(content.fileno()).st_size),
        "Content-Disposition": f'attachment; filename="{export_format}.zip"',
    }
    return stream_file(content, media_type="application/zip", headers=headers)
