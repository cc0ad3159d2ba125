"""The way of a finished model, or of a classification's answers, from the run directory to the artifact store."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from alignclip_core.errors import ArtifactCorrupt
from alignclip_core.run_dir import WEIGHTS_FILE, ClassSimilarity, RunDir, file_sha256
from alignclip_store.retention import model_key, result_file_key
from alignclip_store.runs import NewModel, NewResultFile
from worker.current_run import CurrentRun
from worker.outcome import Outcome
from worker.storage import folder_bytes, storage

log = structlog.get_logger()

NUM_TRIES = 3  # at an hours-long run's last step, a store gets a second chance
TRY_AGAIN_SECONDS = 2.0  # after the first try; doubled after each


def publish_model(run: CurrentRun) -> Outcome:
    """Check and store the finished model; the outcome holds what makes it visible once the job's row is written.

    Raises `ArtifactCorrupt` when the trainer's files do not fit their manifest, `OSError` when the store takes none.
    """
    manifest = check_model(run.run_dir)
    run.record_phase("publishing")
    key = model_key(run.read_job(), run.claim.fence)
    uri = _put(lambda: run.artifacts.put_folder(run.run_dir.model, key))
    model = NewModel(artifact_uri=uri, manifest=manifest, num_bytes=folder_bytes(run.run_dir.model))
    return Outcome(kind="succeeded", result=manifest.get("result"), model=model)


def publish_answers(run: CurrentRun) -> Outcome:
    """Check and store the file of answers; the same of a classification.

    Raises `ArtifactCorrupt` when the file does not fit its hash, `OSError` when the store takes none.
    """
    result, file = run.run_dir.read_result(), run.run_dir.answers_file
    if result is None or not file.is_file() or file_sha256(file) != result["sha256"]:
        raise ArtifactCorrupt(f"{file.name} does not fit the hash in the result; classify the dataset again.")
    run.record_phase("publishing")
    key = result_file_key(run.claim.job_id, run.claim.fence)
    uri = _put(lambda: run.artifacts.put_file(file, key))
    stored = NewResultFile(artifact_uri=uri, num_bytes=file.stat().st_size, sha256=result["sha256"])
    return Outcome(kind="succeeded", result=result, result_file=stored)


def check_model(run_dir: RunDir) -> dict[str, Any]:
    """The manifest of a finished model whose files fit it. Raises `ArtifactCorrupt`."""
    manifest = run_dir.read_manifest()
    if manifest is None:
        raise ArtifactCorrupt(f"The trainer left no model in {run_dir.model.name}/.")
    weights = run_dir.model / WEIGHTS_FILE
    if not weights.is_file() or file_sha256(weights) != manifest["weights_sha256"]:
        raise ArtifactCorrupt(f"{WEIGHTS_FILE} does not fit the hash in the model's manifest; create the job again.")
    if manifest["similarity_sha256"] != ClassSimilarity.load(run_dir.similarity_file).sha256:
        raise ArtifactCorrupt("The model was trained with another similarity matrix than its job's.")
    return manifest


def _put(put: Callable[[], str]) -> str:
    wait_seconds = TRY_AGAIN_SECONDS
    for _ in range(NUM_TRIES - 1):
        try:
            with storage():
                return put()
        except OSError as error:
            log.warning("product_not_stored", error=repr(error))
        time.sleep(wait_seconds)
        wait_seconds *= 2
    with storage():
        return put()
