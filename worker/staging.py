"""From a job's row to a run directory in which a trainer can start."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
from sqlalchemy.orm import Session

from alignclip_core.base_models import find_base_model
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.fingerprint import count_parts, split_manifest, split_sha256
from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.run_dir import ClassSimilarity
from alignclip_store import runs
from alignclip_store.datasets import open_dataset
from alignclip_store.errors import ArtifactMissing
from alignclip_store.runs import latest_checkpoint
from alignclip_store.similarities import get_similarity
from alignclip_store.tables import Checkpoint, Job
from worker.checking import CheckedDataset, check_dataset
from worker.current_run import CurrentRun
from worker.dataset_staging import stage_dataset
from worker.storage import storage

log = structlog.get_logger()

PROGRESS_SECONDS = 10.0  # between two events about a long fetch


def stage(run: CurrentRun) -> int | None:
    """Fill the run directory; returns the step that the trainer will go on from, None for a start from the base model.

    A dataset is copied, one that was named by its path too: what was checked is then what is trained on, whatever
    happens to the source during the run, and images can be left out. Raises `RunStopped`, and the errors of the core
    and the store for inputs that cannot be used.
    """
    job = run.read_job()
    config = FinetuneConfig.from_json(job.config)
    find_base_model(config.base_model, run.settings.models_location, run.settings.allowed_base_models)
    run.run_dir.write_config(config)
    fetch_similarity(run)
    run.record_phase("fetching_files")
    _fetch_files(run, job)
    run.record_phase("checking_images")
    checked = check_dataset(run, config, [test["name"] for test in job.test_datasets])
    _record_dataset(run, checked)
    split = checked.split
    run.record_event("info", f"{len(split.samples):,} images are good: {len(split.train):,} of them train.")
    run.raise_if_stopped()
    return fetch_checkpoint(run)


def fetch_similarity(run: CurrentRun) -> None:
    """The very matrix that was computed at the POST. Raises `ArtifactCorrupt` when the file is another."""
    job = run.read_job()
    similarity = run.write(lambda session: get_similarity(session, job.owner, job.similarity_id))
    with storage():
        run.artifacts.fetch_file(similarity.artifact_uri, run.run_dir.similarity_file)
    if ClassSimilarity.load(run.run_dir.similarity_file).sha256 != similarity.sha256:
        raise ArtifactCorrupt(f"The similarity matrix {similarity.id} does not fit its recorded hash.")


def _fetch_files(run: CurrentRun, job: Job) -> None:
    fetch_dataset(run, job, job.training_file, run.run_dir.dataset, param="training_file", min_classes=2)
    if job.validation_file is not None:
        fetch_dataset(run, job, job.validation_file, run.run_dir.validation, param="validation_file", min_classes=1)
    for place, test in enumerate(job.test_datasets):
        target = run.run_dir.test_dataset(test["name"])
        fetch_dataset(run, job, test["dataset"], target, param=f"test_datasets.{place}", min_classes=2)
        if test["class_names"] is not None:
            run.run_dir.write_test_class_names(test["name"], test["class_names"])


def fetch_dataset(run: CurrentRun, job: Job, reference: str, target: Path, *, param: str, min_classes: int) -> None:
    """Put what the reference leads to at `target`; `param` is the field that named it."""
    dataset = run.write(lambda session: open_dataset(session, job.owner, reference, run.settings, param=param))
    with storage():
        is_streamed = stage_dataset(run, dataset, target, min_classes=min_classes, on_file=_FetchProgress(run))
    if is_streamed:
        run.record_event("info", "The dataset is larger than the cache: its images are fetched while they are needed.")


def _record_dataset(run: CurrentRun, checked: CheckedDataset) -> None:
    """Keep with the job what it was trained on, and which image took which part."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "split.json"
        file.write_text(json.dumps(split_manifest(checked.split)))
        with storage():
            uri = run.artifacts.put_file(file, f"{run.artifact_prefix}/split.json")
    dataset = {
        "fingerprint": checked.fingerprint,
        "validation_fingerprint": checked.validation_fingerprint,
        "test_fingerprints": checked.test_fingerprints,
        "num_images": len(checked.split.samples),
        "parts": count_parts(checked.split),
        "split_sha256": split_sha256(checked.split),
        "split_uri": uri,
    }
    run.write(lambda session: runs.record_dataset(session, run.claim, dataset))


class _FetchProgress:
    """Tells the job's events how far a long fetch is, and ends it when the run should stop."""

    def __init__(self, run: CurrentRun) -> None:
        self._run = run
        self._num_files = 0
        self._told_at = time.monotonic()

    def __call__(self) -> None:
        self._run.raise_if_stopped()
        if time.monotonic() - self._told_at > PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._run.record_event("info", f"Fetched {self._num_files:,} files.")
        self._num_files += 1


def fetch_checkpoint(run: CurrentRun) -> int | None:
    """The step of the newest checkpoint whose files are there; rows without files are forgotten, and said so."""
    while True:
        checkpoint = run.write(lambda session: latest_checkpoint(session, run.claim))
        if checkpoint is None:
            return None
        try:
            with storage():
                run.artifacts.fetch_folder(checkpoint.artifact_uri, run.run_dir.checkpoint_folder(checkpoint.step))
        except ArtifactMissing as error:
            log.warning("checkpoint_missing", step=checkpoint.step, error=error.message)
            _forget(run, checkpoint)
            continue
        run.record_event("info", f"The job goes on from the checkpoint of step {checkpoint.step}.")
        return checkpoint.step


def _forget(run: CurrentRun, checkpoint: Checkpoint) -> None:
    def change(session: Session) -> None:
        runs.forget_checkpoint(session, run.claim, checkpoint.id)
        message = f"The checkpoint of step {checkpoint.step} is not complete and was left out."
        runs.record_event(session, run.claim, "warn", message)

    run.write(change)
