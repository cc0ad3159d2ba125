"""From a classification's row to a run directory in which it can start."""

from __future__ import annotations

from alignclip_core.base_models import find_base_model
from alignclip_core.run_dir import ClassificationConfig
from alignclip_store.job_kinds import FACTS
from alignclip_store.models import get_model
from alignclip_store.tables import Job
from worker.current_run import CurrentRun
from worker.staging import fetch_checkpoint, fetch_dataset, fetch_similarity
from worker.storage import storage


def stage_classification(run: CurrentRun) -> int | None:
    """Fill the run directory; returns the number of images that have their answers already, None for none.

    The images are not checked here: one that cannot be read gets its reason in its line. Raises as `staging.stage`.
    """
    job, settings = run.read_job(), run.settings
    find_base_model(job.base_model, settings.models_location, settings.allowed_base_models)
    config = ClassificationConfig(
        base_model=job.base_model,
        top_k=job.config["top_k"],
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        runtime=settings.serving_runtime,
        precision=settings.serving_precision,
        device=settings.serving_device,
    )
    run.run_dir.write_classification(config)
    fetch_similarity(run)
    run.record_phase("fetching_files")
    _fetch_model(run, job)
    param = FACTS[job.kind].dataset_param
    fetch_dataset(run, job, job.training_file, run.run_dir.dataset, param=param, min_classes=0)
    run.raise_if_stopped()
    return fetch_checkpoint(run)


def _fetch_model(run: CurrentRun, job: Job) -> None:
    """The files of a tuned model; a base model's are on this machine. Raises `ModelNotFound`."""
    model_id = job.model_id
    assert model_id is not None
    if model_id == job.base_model:
        return
    model = run.write(lambda session: get_model(session, job.owner, model_id))
    with storage():
        run.artifacts.fetch_folder(model.artifact_uri, run.run_dir.asked_model)
