"""The finished model of a run that died before it could say so: the next run on the machine takes it over."""

from __future__ import annotations

import shutil
from pathlib import Path

import structlog
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.run_dir import RunDir
from alignclip_store import runs
from alignclip_store.database import reading
from alignclip_store.job_status import FINISHED
from alignclip_store.tables import Job
from worker.current_run import CurrentRun
from worker.publishing import check_model
from worker.reports import NUMBERS
from worker.run_folders import dead_folders, held_folder
from worker.staging import fetch_similarity

log = structlog.get_logger()


def adopt_finished_model(run: CurrentRun) -> bool:
    """Whether this run has the complete model of a former run of its job, so that nothing needs to be trained.

    A model whose files do not fit their hashes is not adopted: the job trains, from its last checkpoint on.
    """
    for folder in dead_folders(run.run_dir.path):
        former = RunDir(folder)
        if former.read_manifest() is None:
            continue
        with held_folder(folder):  # also removes what is left of it
            if _adopt(run, former):
                return True
    return False


def may_be_adopted(engine: Engine, folder: Path) -> bool:
    """Whether a dead run's directory holds a model that its job still lacks; then only that is kept of it."""
    former = RunDir(folder)
    if former.read_manifest() is None:
        return False
    with reading(engine) as session:
        status = session.scalar(select(Job.status).where(Job.id == folder.parent.name))
    if status is None or status in FINISHED:
        return False
    for bulky in (former.inputs, former.checkpoints):
        shutil.rmtree(bulky, ignore_errors=True)
    return True


def _adopt(run: CurrentRun, former: RunDir) -> bool:
    shutil.rmtree(run.run_dir.model, ignore_errors=True)
    former.model.rename(run.run_dir.model)
    fetch_similarity(run)
    try:
        check_model(run.run_dir)
    except ArtifactCorrupt as error:
        log.warning("model_not_adopted", folder=former.path.name, error=error.message)
        shutil.rmtree(run.run_dir.model)
        return False
    run.write(lambda session: runs.start_training(session, run.claim))
    run.write(lambda session: _record_numbers(session, run, former))
    run.record_event("info", f"The training had finished in {former.path.name}; its model is adopted.")
    if former.log_file.is_file():
        former.log_file.rename(run.run_dir.log_file)
    return True


def _record_numbers(session: Session, run: CurrentRun, former: RunDir) -> None:
    """What the former run may not have passed on any more; what is stored already is only replaced by itself."""
    records, _ = former.read_records()
    numbers = [
        {"step": record.step, "kind": record.kind, "values": record.values}
        for record in records
        if record.kind in NUMBERS
    ]
    runs.record_metrics(session, run.claim, numbers)
