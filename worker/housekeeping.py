"""What the reaper does now and then: it deletes what is too old, and what a process left that died while it wrote."""

from __future__ import annotations

import time

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import transaction
from alignclip_store.retention import drop_expired
from alignclip_store.settings import Settings

log = structlog.get_logger()

PAUSE_SECONDS = 600.0
LEFTOVER_SECONDS = 24 * 3600.0  # no upload takes so long


def keep_house(engine: Engine, artifacts: ArtifactStore, settings: Settings) -> int:
    """Delete all that is due; returns the number of artifacts. What cannot be deleted is named in the log."""
    num_deleted = 0
    while True:
        with transaction(engine) as session:
            uris = drop_expired(session, settings)
        for uri in uris:
            try:
                artifacts.delete(uri)
            except Exception as error:  # any of the backend's own
                log.warning("artifact_not_deleted", uri=uri, error=repr(error))
        num_deleted += len(uris)
        if not uris:
            break
    num_leftovers = artifacts.sweep_leftovers(LEFTOVER_SECONDS)
    log.info("house_kept", num_deleted=num_deleted, num_leftovers=num_leftovers)
    return num_deleted


def keep_house_forever(engine: Engine, settings: Settings) -> None:
    """Every ten minutes; a database or store that is away only delays."""
    artifacts = ArtifactStore(settings.artifacts_location)
    while True:
        try:
            keep_house(engine, artifacts, settings)
        except (SQLAlchemyError, OSError) as error:
            log.warning("house_not_kept", error=str(error))
        time.sleep(PAUSE_SECONDS)
