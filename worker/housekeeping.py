"""What the reaper does now and then: it deletes what is too old, and what a process left that died while it wrote."""

from __future__ import annotations

import time

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.artifacts import ArtifactStore, uri_of
from alignclip_store.database import reading, transaction
from alignclip_store.retention import drop_expired, is_named, mark_ended_runs
from alignclip_store.settings import Settings
from alignclip_store.workers import forget_gone_workers

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
            _delete(artifacts, uri)
        num_deleted += len(uris)
        if not uris:
            break
    num_deleted += sweep_ended_runs(engine, artifacts)
    with transaction(engine) as session:
        forget_gone_workers(session)
    num_leftovers = artifacts.sweep_leftovers(LEFTOVER_SECONDS)
    log.info("house_kept", num_deleted=num_deleted, num_leftovers=num_leftovers)
    return num_deleted


def sweep_ended_runs(engine: Engine, artifacts: ArtifactStore) -> int:
    """Delete the models and checkpoints that killed runs had stored before a row could name them; how many."""
    num_deleted = 0
    while True:
        with transaction(engine) as session:
            runs = mark_ended_runs(session)
        for checkpoints, model in runs:
            for uri in [*artifacts.list_children(checkpoints), uri_of(model)]:
                with reading(engine) as session:
                    is_kept = is_named(session, uri)
                if not is_kept and artifacts.exists(uri):
                    num_deleted += _delete(artifacts, uri)
        if not runs:
            return num_deleted


def _delete(artifacts: ArtifactStore, uri: str) -> bool:
    """Whether it is gone; if not, it only takes space, and the log names it."""
    try:
        artifacts.delete(uri)
    except Exception as error:  # any of the backend's own
        log.warning("artifact_not_deleted", uri=uri, error=repr(error))
        return False
    return True


def keep_house_forever(engine: Engine, settings: Settings) -> None:
    """Every ten minutes; a database or store that is away only delays."""
    artifacts = ArtifactStore(settings.artifacts_location)
    while True:
        try:
            keep_house(engine, artifacts, settings)
        except (SQLAlchemyError, OSError) as error:
            log.warning("house_not_kept", error=str(error))
        time.sleep(PAUSE_SECONDS)
