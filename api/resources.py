"""What the application holds while it runs, opened once at its start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import CapacityLimiter
from celery import Celery
from sqlalchemy import Engine

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine
from alignclip_store.queue import create_queue
from alignclip_store.settings import Settings, bootstrap_api_key
from api.model_cache import KeyedLocks, ModelCache

MAX_CLASSIFY_THREADS = 4  # each forward pass uses all cores already; more threads would only hold more images


@dataclass(frozen=True)
class Resources:
    """Settings, database, files, broker, loaded models."""

    settings: Settings
    api_key: str
    engine: Engine
    artifacts: ArtifactStore
    queue: Celery
    models: ModelCache
    computing: KeyedLocks  # of what several requests may ask for at once
    classify_limiter: CapacityLimiter
    uploads_folder: Path


@contextmanager
def open_resources(settings: Settings) -> Iterator[Resources]:
    """The resources until the application ends. Must be opened inside the event loop."""
    uploads_folder = settings.home_dir / "uploads"
    uploads_folder.mkdir(parents=True, exist_ok=True)
    api_key, _ = bootstrap_api_key(settings)
    engine = create_engine(settings)
    artifacts = ArtifactStore(settings.artifacts_location)
    try:
        yield Resources(
            settings=settings,
            api_key=api_key,
            engine=engine,
            artifacts=artifacts,
            queue=create_queue(settings),
            models=ModelCache(settings, artifacts),
            computing=KeyedLocks(),
            classify_limiter=CapacityLimiter(MAX_CLASSIFY_THREADS),
            uploads_folder=uploads_folder,
        )
    finally:
        engine.dispose()
