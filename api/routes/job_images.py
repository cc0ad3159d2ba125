"""The images that a job trained on or was measured on, small enough for a page."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.dependencies import OwnerDep, ResourcesDep
from api.job_images import Source, make_thumbnail

CACHE_SECONDS = 3600

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])


@router.get(
    "/{job_id}/images",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "At most 320 pixels wide and high."}},
)
async def retrieve_job_image(
    job_id: str,
    owner: OwnerDep,
    resources: ResourcesDep,
    path: Annotated[
        str, Query(min_length=1, max_length=1024, description="Of the image in the dataset, as a mistake names it.")
    ],
    source: Annotated[
        Source, Query(description="As a mistake has it: dataset, validation, or test-NAME of a test dataset.")
    ] = "dataset",
) -> Response:
    """A thumbnail of one image of the job's dataset; 404 where the dataset is no longer there or lies elsewhere."""
    content = await to_thread.run_sync(
        make_thumbnail, resources, owner, job_id, path, source, limiter=resources.picture_limiter
    )
    return Response(content, media_type="image/jpeg", headers={"cache-control": f"private, max-age={CACHE_SECONDS}"})
