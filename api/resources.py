"""What the application holds while it runs, opened once at its start."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock

import structlog
from anyio import CapacityLimiter
from celery import Celery
from sqlalchemy import Engine

from alignclip_core.decoders import Decoders
from alignclip_core.images import ImageLimits
from alignclip_store import tables
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine, reading
from alignclip_store.models import get_model_of_anyone
from alignclip_store.queue import create_queue
from alignclip_store.settings import Settings, bootstrap_api_key, key_pepper
from api.authentication import Authenticator
from api.batching import Batcher
from api.measurements import Measurements
from api.model_cache import BoundedCache, KeyedLocks, ModelCache
from api.rate_limits import RateLimits
from api.scratch import scratch_folder
from api.turns import Turns

log = structlog.get_logger(__name__)

MAX_THUMBNAIL_BYTES = 32 << 20  # some thousands


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
    batcher: Batcher
    classify_turns: Turns
    explain_turns: Turns  # one at a time: a forward pass of its own uses all cores already
    decoders: Decoders
    decode_places: BoundedSemaphore  # of images that are decoded and scaled at once for classify and embeddings
    decode_pool: ThreadPoolExecutor  # for those of a request that has several
    picture_limiter: CapacityLimiter  # of pictures of datasets: a dataset is listed for those of a job
    thumbnails: BoundedCache[tuple[str, str, str], bytes]  # of them: job, source and path -> JPEG
    making_limiter: CapacityLimiter  # of exports and mixtures: each holds a whole model in memory
    reporting: Lock  # of the one dataset that is looked at
    scratch: Path  # folder of this process's temporary files


@contextmanager
def open_resources(settings: Settings, measurements: Measurements) -> Iterator[Resources]:
    """The resources until the application ends. Must be opened inside the event loop."""
    api_key, _ = bootstrap_api_key(settings)
    pepper = key_pepper(settings)
    engine = create_engine(settings)
    rate_limits = RateLimits(settings)
    artifacts = ArtifactStore(settings.artifacts_location)
    batcher = Batcher(
        max_images=settings.max_batch_images,
        max_wait_seconds=settings.max_batch_wait_seconds,
        observe=measurements.count_batch,
    )
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    decoders = Decoders(limits)
    num_decoders = settings.threads or os.cpu_count() or 1
    decode_pool = ThreadPoolExecutor(num_decoders, thread_name_prefix="decode")
    with scratch_folder(settings.home_dir / "uploads") as scratch:
        models = ModelCache(settings, artifacts, scratch)
        _warm_up(models, engine, settings.pinned_models)
        try:
            yield Resources(
                settings=settings,
                authenticator=Authenticator(engine, rate_limits, bootstrap_key=api_key, pepper=pepper),
                rate_limits=rate_limits,
                pepper=pepper,
                engine=engine,
                artifacts=artifacts,
                queue=create_queue(settings),
                models=models,
                computing=KeyedLocks(),
                batcher=batcher,
                classify_turns=Turns(settings.max_concurrent_classify, settings.max_waiting_classify),
                explain_turns=Turns(1, settings.max_waiting_classify),
                decoders=decoders,
                decode_places=BoundedSemaphore(num_decoders),
                decode_pool=decode_pool,
                making_limiter=CapacityLimiter(1),
                picture_limiter=CapacityLimiter(1),
                thumbnails=BoundedCache(MAX_THUMBNAIL_BYTES, len),
                reporting=Lock(),
                scratch=scratch,
            )
        finally:
            batcher.close()
            decode_pool.shutdown()
            decoders.close()
            engine.dispose()


def _warm_up(models: ModelCache, engine: Engine, model_ids: Sequence[str]) -> None:
    """Load and pin in a thread: the service answers meanwhile, and who asks for such a model waits for its one load."""

    def load() -> None:
        for model_id in model_ids:
            try:
                models.pin(models.find_base_model(model_id) or _find_tuned_model(engine, model_id))
            except Exception:
                log.warning("A pinned model cannot be loaded", model=model_id, exc_info=True)

    if model_ids:
        threading.Thread(target=load, name="warm-up", daemon=True).start()


def _find_tuned_model(engine: Engine, model_id: str) -> tables.Model:
    with reading(engine) as session:
        return get_model_of_anyone(session, model_id)
