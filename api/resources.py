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
from alignclip_store.settings import Settings, bootstrap_api_key, key_pepper
from api.authentication import Authenticator
from api.model_cache import KeyedLocks, ModelCache
from api.rate_limits import RateLimits

MAX_CLASSIFY_THREADS = 4  # each forward pass uses all cores already; more threads would only hold more images


@dataclass(frozen=True)
class Resources:
    """Settings, database, files, broker, loaded models."""

    settings: Settings
    authenticator: Authenticator
    rate_limits: RateLimits
    pepper: bytes  # of the API keys
    engine: Engine
    artifacts: ArtifactStore
    queue: Celery
    models: ModelCache
    computing: KeyedLocks  # of what several requests may ask for at once
    classify_limiter: CapacityLimiter
    making_limiter: CapacityLimiter  # of exports and mixtures: each holds a whole model in memory
    uploads_folder: Path


@contextmanager
def open_resources(settings: Settings) -> Iterator[Resources]:
    """The resources until the application ends. Must be opened inside the event loop."""
    uploads_folder = settings.home_dir / "uploads"
    uploads_folder.mkdir(parents=True, exist_ok=True)
    api_key, _ = bootstrap_api_key(settings)
    pepper = key_pepper(settings)
    engine = create_engine(settings)
    rate_limits = RateLimits(settings)
    artifacts = ArtifactStore(settings.artifacts_location)
    try:
        yield Resources(
            settings=settings,
            authenticator=Authenticator(engine, rate_limits, bootstrap_key=api_key, pepper=pepper),
            rate_limits=rate_limits,
            pepper=pepper,
            engine=engine,
            artifacts=artifacts,
            queue=create_queue(settings),
            models=ModelCache(settings, artifacts),
            computing=KeyedLocks(),
            classify_limiter=CapacityLimiter(MAX_CLASSIFY_THREADS),
            making_limiter=CapacityLimiter(1),
            uploads_folder=uploads_folder,
        )
    finally:
        engine.dispose()
