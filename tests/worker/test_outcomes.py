"""What becomes of a job whose run did not succeed, and of a model that cannot be stored. No trainer starts here."""

import errno
import hashlib
import json
from dataclasses import replace

import pytest

from alignclip_core.errors import ArtifactCorrupt
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import transaction
from alignclip_store.errors import LeaseLost
from alignclip_store.jobs import request_cancel
from alignclip_store.runs import reap, start_training
from worker import publishing, tasks
from worker.outcome import STOPPED, Outcome
from worker.publishing import check_model, publish_model
from worker.run_folders import held_folder
from worker.staging import stage


@pytest.fixture
def run(service, archive, claim_run):
    service.submit(archive, wakes=False)
    return claim_run()


@pytest.fixture
def trained_run(run):
    """A run whose trainer has left a model."""
    with held_folder(run.run_dir.path):
        stage(run)
        run.write(lambda session: start_training(session, run.claim))
        run.run_dir.model.mkdir()
        (run.run_dir.model / "weights.safetensors").write_bytes(b"weights")
        write_manifest(run)
        yield run


def write_manifest(run, **fields):
    similarity = run.run_dir.similarity_file
    hashes = {
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(),
        "similarity_sha256": publishing.ClassSimilarity.load(similarity).sha256,
    }
    content = {**hashes, "result": {"tuned": {}}, **fields}
    (run.run_dir.model / "manifest.json").write_text(json.dumps(content))


def test_a_run_that_was_given_up_is_charged_and_its_job_queued_again(service, run):
    tasks.conclude(run, Outcome.given_up("trainer_killed", "The trainer was killed."))
    with transaction(service.engine) as session:
        assert reap(session, service.settings) == [run.claim.job_id]
    job = service.job(run.claim.job_id)
    assert (job.status, job.num_lost_runs) == ("queued", 1)
    assert "The trainer was killed." in [event.message for event in service.events(job.id)]


def test_trouble_that_may_pass_is_left_a_leases_time(service, run):
    tasks.conclude(run, Outcome.given_up("disk_full", "The disk is full."))
    with transaction(service.engine) as session:
        assert reap(session, service.settings) == []
    assert service.job(run.claim.job_id).status == "validating_files"


def test_the_last_run_that_is_given_up_fails_the_job_with_its_error(make_service, archive, claim_run):
    service = make_service(max_runs_per_job=1)
    job_id = service.submit(archive, wakes=False)
    tasks.conclude(claim_run(service), Outcome.given_up("trainer_killed", "The trainer was killed."))
    job = service.job(job_id)
    assert job.status == "failed"
    assert job.error == {"code": "trainer_killed", "message": "The trainer was killed.", "param": None}


def test_a_run_that_is_given_up_after_a_cancel_cancels(service, run):
    with transaction(service.engine) as session:
        request_cancel(session, "owner", run.claim.job_id)
    tasks.conclude(run, Outcome.given_up("trainer_killed", "The trainer was killed."))
    assert service.job(run.claim.job_id).status == "cancelled"


def test_a_released_job_is_queued_uncharged(service, run):
    tasks.conclude(run, STOPPED["shutdown"])
    job = service.job(run.claim.job_id)
    assert (job.status, job.num_lost_runs) == ("queued", 0)


def test_a_lost_run_writes_nothing(service, run):
    before = service.job(run.claim.job_id)
    with pytest.raises(LeaseLost):
        tasks.conclude(run, STOPPED["lost"])
    assert service.job(run.claim.job_id).status == before.status


def test_a_worker_that_cannot_write_its_run_directory_says_so(make_service, archive, claim_run):
    service = make_service(max_runs_per_job=1)
    job_id = service.submit(archive, wakes=False)
    service.settings.runs_location.write_text("a file where the folder of the runs should be")
    run = claim_run(service)
    tasks.conclude(run, tasks.perform(run))
    job = service.job(job_id)
    assert (job.status, job.error["code"]) == ("failed", "storage_failed")


class FullStore(ArtifactStore):
    """A store on a full disk."""

    def fetch_file(self, uri, local):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_called_by_its_name(service, run):
    store = FullStore(service.settings.artifacts_location)
    outcome = tasks.perform(replace(run, workplace=replace(run.workplace, artifacts=store)))
    assert (outcome.kind, outcome.error["code"]) == ("given_up", "disk_full")


def test_a_finished_model_is_published_and_becomes_the_jobs(service, trained_run):
    tasks.conclude(trained_run, publish_model(trained_run))
    job = service.job(trained_run.claim.job_id)
    assert job.status == "succeeded"
    assert job.result == {"tuned": {}}
    assert job.model_id.startswith("ft:tiny:owner:colours:")


def test_a_model_that_does_not_fit_its_manifest_is_not_published(trained_run):
    (trained_run.run_dir.model / "weights.safetensors").write_bytes(b"other weights")
    with pytest.raises(ArtifactCorrupt, match="does not fit the hash"):
        check_model(trained_run.run_dir)


def test_a_model_of_another_similarity_matrix_is_not_published(trained_run):
    write_manifest(trained_run, similarity_sha256="0" * 64)
    with pytest.raises(ArtifactCorrupt, match="another similarity matrix"):
        check_model(trained_run.run_dir)


def test_a_model_that_the_store_does_not_take_never_succeeds(service, trained_run, monkeypatch):
    monkeypatch.setattr(publishing, "TRY_AGAIN_SECONDS", 0)
    models = service.settings.home_dir / "artifacts/models"
    models.write_text("a file where the folder of the models should be")
    with pytest.raises(OSError, match="models"):
        publish_model(trained_run)
    models.unlink()
    assert publish_model(trained_run).kind == "succeeded"
