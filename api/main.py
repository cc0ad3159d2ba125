"""The HTTP application.

Run it with `uvicorn --factory api.main:create_app_from_environment`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute

from alignclip_store.logs import configure_logging
from alignclip_store.settings import Settings
from api.errors import ERROR_ANSWERS, install_error_handlers
from api.links import describe_links
from api.measurements import Measurements, RequestMeter
from api.middleware import BodyLimit, RequestLog
from api.rate_limits import INFERENCE_ROUTES
from api.resources import open_resources
from api.routes import (
    aliases,
    api_keys,
    audit,
    classifications,
    classify,
    datasets,
    embeddings,
    estimate,
    evaluations,
    explain,
    export,
    files,
    health,
    interpolate,
    job_images,
    jobs,
    loading,
    metrics,
    models,
    options,
    page,
    queue,
    similarity,
    stream,
    uploads,
    webhooks,
)

DESCRIPTION = """Fine-tune CLIP on your own images without losing other domains and untrained classes (AlignCLIP).

Upload a zip of `class/image` or `domain/class/image`, create a fine-tuning job, poll it, classify with the model that
it makes. The routes under `/v1` take the unmodified `openai` client; the classify routes take `huggingface_hub`'s
`InferenceClient` too. Every request but the health checks carries `Authorization: Bearer <key>`.
"""
MAX_JSON_BYTES = 16 * 2**20  # ten thousand long class names fit


def create_app(settings: Settings) -> FastAPI:
    """The application on these settings; database, files and models are opened when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with open_resources(settings, app.state.measurements) as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="AlignCLIP Service",
        version=version("alignclip-service"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # ours is in routes/page.py
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.add_middleware(
        BodyLimit,
        limit_of=lambda request: _body_limit(request, settings),
        max_silence_seconds=settings.max_silence_seconds,
    )
    app.add_middleware(RequestLog)  # added last, so it stands outside of the others
    install_error_handlers(app)
    app.include_router(health.router)
    app.state.measurements = Measurements()
    app.add_middleware(RequestMeter, measurements=app.state.measurements)
    app.include_router(metrics.router, dependencies=metrics.access(settings), responses=ERROR_ANSWERS)
    app.include_router(page.router)
    app.mount("/web", page.files)
    # models last: it takes all below its path
    for routes in (
        files,
        uploads,
        jobs,
        job_images,
        estimate,
        evaluations,
        classifications,
        datasets,
        options,
        stream,
        queue,
        webhooks,
        similarity,
        classify,
        embeddings,
        explain,
        export,
        interpolate,
        aliases,
        loading,
        api_keys,
        audit,
        models,
    ):
        app.include_router(routes.router, responses=ERROR_ANSWERS)
    describe_links(app)
    return app


def create_app_from_environment() -> FastAPI:
    """For `uvicorn --factory`."""
    configure_logging()
    return create_app(Settings())


def _body_limit(request: Request, settings: Settings) -> int:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        if request.url.path.startswith("/v1/uploads/"):
            return min(settings.max_body_bytes, uploads.MAX_PART_BYTES + MAX_JSON_BYTES)
        if request.url.path.endswith(INFERENCE_ROUTES):
            return min(
                settings.max_body_bytes, settings.max_images_per_request * settings.max_image_bytes + MAX_JSON_BYTES
            )
        return settings.max_body_bytes
    # JSON and raw bodies are held in memory; an image in base64 has 4 bytes for 3.
    return min(settings.max_body_bytes, settings.max_image_bytes * 4 // 3 + MAX_JSON_BYTES)


def _operation_id(route: APIRoute) -> str:
    return route.name
