"""What one living worker does with jobs, from wake-up to end. It and the reaper are processes; so is each trainer."""

import hashlib
import time
from datetime import timedelta

import pytest
from sqlalchemy import update

from alignclip_store.checkpoints import best_checkpoint, list_checkpoints
from alignclip_store.database import database_now, reading, transaction
from alignclip_store.jobs import list_metrics, request_cancel
from alignclip_store.models import get_model
from alignclip_store.runs import WorkerIdentity, claim_next, finish, reap
from alignclip_store.similarities import get_similarity
from alignclip_store.tables import Job
from alignclip_store.workers import list_workers
from tests.worker.conftest import WAIT_SECONDS


@pytest.fixture(scope="module")
def finished_job(running_service, archive_with_bad_images):
    """A job whose archive holds 12 pictures and three files that are none."""
    service = running_service
    steps = {"num_steps": 6, "checkpoint_every_steps": 2, "evaluate_every_steps": 3}
    job = service.wait_for_end(service.submit(archive_with_bad_images, skip_bad_images=True, **steps))
    assert job.status == "succeeded", service.logs()
    return job


def test_a_job_runs_to_a_result(running_service, finished_job):
    assert finished_job.step == 6
    assert finished_job.result["tuned"]["trained_domains"]["trained_classes"]["num_images"] == 3
    assert running_service.train_steps(finished_job.id) == [1, 2, 3, 4, 5, 6]
    with reading(running_service.engine) as session:
        evaluations, _ = list_metrics(session, finished_job.owner, finished_job.id, kind="evaluation")
    assert [metric.step for metric in evaluations] == [0, 3, 6]


def test_the_model_is_stored_whole_and_carries_the_hash_of_its_jobs_matrix(running_service, finished_job):
    with reading(running_service.engine) as session:
        model = get_model(session, finished_job.owner, finished_job.model_id)
        similarity = get_similarity(session, finished_job.owner, finished_job.similarity_id)
    assert model.manifest["similarity_sha256"] == similarity.sha256
    with running_service.artifacts.open(f"{model.artifact_uri}/weights.safetensors") as weights:
        assert hashlib.sha256(weights.read()).hexdigest() == model.manifest["weights_sha256"]


def test_the_newest_and_the_best_checkpoints_are_kept(running_service, finished_job, tmp_path):
    with reading(running_service.engine) as session:
        checkpoints, _ = list_checkpoints(session, finished_job.owner, finished_job.id)
    assert [checkpoint.step for checkpoint in checkpoints] == [6, 4]  # keep_checkpoints
    assert best_checkpoint(checkpoints).step == 6, "as accurate as step 4: both follow the evaluation of step 3"
    assert all(checkpoint.num_bytes > 0 for checkpoint in checkpoints)
    newest = checkpoints[0]
    assert (running_service.artifacts.fetch_folder(newest.artifact_uri, tmp_path / "newest") / "resume").is_dir()
    assert newest.metrics["train_loss"] > 0
    assert newest.metrics["valid_mean_token_accuracy"] == newest.metrics["valid_accuracy"]
    assert 0 <= newest.metrics["valid_accuracy"] <= 1
    prefix = newest.artifact_uri.rpartition("/")[0]
    folders = {path.name for path in running_service.artifacts.local_path(prefix).iterdir()}
    assert folders == {f"step-{checkpoint.step:06d}" for checkpoint in checkpoints}


def test_a_worker_is_in_the_register_as_long_as_it_runs(service):
    def workers():
        with reading(service.engine) as session:
            found = list_workers(session, service.settings)
        return [(worker.name.partition("@")[0], worker.status) for worker in found]

    def wait_for(expected):
        deadline = time.monotonic() + WAIT_SECONDS
        while workers() != expected:
            assert time.monotonic() < deadline, (workers(), service.logs())
            time.sleep(0.1)

    worker = service.start_worker("mayfly")
    wait_for([("mayfly", "idle")])
    worker.terminate()
    worker.wait(WAIT_SECONDS)
    wait_for([])


def test_a_finished_run_leaves_its_log_and_nothing_on_the_worker(running_service, finished_job):
    (run,) = running_service.runs(finished_job.id)
    assert run.outcome == "succeeded"
    assert run.worker.startswith("worker@")
    assert run.device
    with running_service.artifacts.open(run.log_uri) as log:
        assert b"The model is complete" in log.read()
    running_service.wait_for_no_run_folder()


def test_skipped_images_are_listed(running_service, finished_job):
    events = running_service.events(finished_job.id)
    (warning,) = [event for event in events if event.level == "warn"]
    assert "3 of 15 images" in warning.message
    assert [image["path"] for image in warning.data["files"]] == [f"red/broken-{number}.png" for number in range(3)]
    messages = [event.message for event in events]
    assert "12 images are good: 9 of them train." in messages
    assert messages[0].startswith("Created")
    assert messages[-1] == "The job has successfully completed."


def test_a_cancel_ends_the_process_group(running_service, archive, is_gone):
    service = running_service
    job_id = service.submit(archive, num_steps=100_000, checkpoint_every_steps=100_000, num_loader_workers=1)
    service.wait_for_step(job_id, 1)
    service.wait(job_id, lambda _: service.runs(job_id)[0].log_uri is not None)  # it can be read while the job runs
    trainer = service.trainer(job_id)
    group = [trainer, *trainer.children(recursive=True)]
    assert len(group) > 1
    environment = trainer.environ()

    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id)

    job = service.wait_for_end(job_id)
    assert job.status == "cancelled"
    assert job.model_id is None
    assert all(is_gone(process) for process in group)
    assert [run.outcome for run in service.runs(job_id)] == ["cancelled"]
    told = {name for name in environment if name.startswith("ALIGNCLIP_")}
    assert told == {"ALIGNCLIP_PARENT_PID", "ALIGNCLIP_FAULTS"}  # the latter in tests alone
    assert service.settings.broker_url not in environment.values()


def test_a_killed_trainer_is_charged_and_the_job_goes_on(running_service, archive, is_gone):
    service = running_service
    job_id = service.submit(archive, num_steps=2)
    trainer = service.trainer(job_id)

    trainer.kill()

    assert is_gone(trainer)
    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert job.num_lost_runs == 1
    assert [run.outcome for run in service.runs(job_id)] == ["lost", "succeeded"]
    (warning, _) = [event for event in service.events(job_id) if event.level == "warn"]
    assert warning.data["code"] == "trainer_killed"
    assert "signal 9" in warning.message


def test_a_worker_that_lost_its_lease_kills_its_trainer_and_writes_nothing(running_service, archive, is_gone):
    service = running_service
    job_id = service.submit(archive, num_steps=100_000)
    service.wait_for_step(job_id, 1)
    trainer = service.trainer(job_id)

    with transaction(service.engine) as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=database_now(session) - timedelta(1)))
        assert reap(session, service.settings) == [job_id]
        other = claim_next(session, WorkerIdentity(name="other", host="elsewhere", device="cpu"), 600)
    before = service.job(job_id)

    assert is_gone(trainer)
    service.wait(job_id, lambda _: "run_lost" in service.logs())
    after = service.job(job_id)
    assert (after.status, after.phase, after.step, after.worker) == (
        "validating_files",
        before.phase,
        before.step,
        "other",
    )
    assert [run.outcome for run in service.runs(job_id)] == ["lost", None]
    with transaction(service.engine) as session:
        finish(session, other, "cancelled")
