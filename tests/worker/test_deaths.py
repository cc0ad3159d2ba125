"""Workers that are stopped or killed in the middle of a job, and what becomes of it."""

import os
import shutil
import signal
import time

import pytest

from alignclip_store.database import migrate, reading
from alignclip_store.models import get_model
from alignclip_store.queue import wake
from tests.worker.conftest import is_alive

LONG = 100_000  # steps: no test waits for the last of them


def test_a_stopped_worker_leaves_a_checkpoint_and_the_next_one_goes_on_from_it(service, archive, is_gone):
    first = service.start_worker("first")
    job_id = service.submit(archive, num_steps=LONG, checkpoint_every_steps=LONG)
    service.wait_for_step(job_id, 1)
    trainer = service.trainer(job_id)

    first.send_signal(signal.SIGTERM)

    job = service.wait(job_id, lambda job: job.status == "queued")
    assert first.wait() == 0
    assert is_gone(trainer)
    assert job.num_lost_runs == 0
    stopped_at = service.train_steps(job_id)[-1]
    assert [run.outcome for run in service.runs(job_id)] == ["stopped"]
    service.wait_for_no_run_folder()

    service.start_worker("second")
    service.start_reaper()
    service.wait_for_step(job_id, stopped_at + 1)

    steps = service.train_steps(job_id)
    assert steps == list(range(1, steps[-1] + 1))
    messages = [event.message for event in service.events(job_id)]
    assert f"Going on from step {stopped_at} of {LONG}." in messages


def test_a_killed_worker_takes_its_trainer_along_and_another_one_finishes_the_job(
    make_service, new_postgres_database, archive, is_gone
):
    service = make_service(database_url=new_postgres_database())
    migrate(service.settings)
    service.arm("mid_step", "30")
    worker = service.start_worker("first")
    job_id = service.submit(archive, num_steps=60, checkpoint_every_steps=20)
    trainer = service.wait_held("mid_step")
    service.wait(job_id, lambda job: any("Checkpoint" in event.message for event in service.events(job_id)))
    children = worker.children(recursive=True)

    worker.kill()

    assert all(is_gone(process) for process in [worker, *children, trainer])
    assert len(list(service.settings.runs_location.glob("*/run-1"))) == 1  # a killed worker cannot tidy up
    service.let_lease_lapse(job_id)
    service.start_worker("second")
    service.start_reaper()
    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert job.num_lost_runs == 1
    assert [run.outcome for run in service.runs(job_id)] == ["lost", "succeeded"]
    assert service.train_steps(job_id) == list(range(1, 61))
    assert any("Going on from step" in event.message for event in service.events(job_id))
    service.wait_for_no_run_folder()  # swept by the second


@pytest.mark.parametrize(
    ("point", "is_same_machine"), [("before_finish_commit", True), ("after_training", True), ("after_training", False)]
)
def test_a_finished_training_is_not_done_again_when_its_worker_dies_before_saying_so(
    service, archive, is_gone, point, is_same_machine
):
    service.arm(point)
    worker = service.start_worker("first")
    job_id = service.submit(archive, num_steps=4, checkpoint_every_steps=2)
    child = service.wait_held(point)
    os.killpg(worker.pid, signal.SIGKILL)
    assert is_gone(worker)
    assert is_gone(child)
    folder = service.settings.runs_location / job_id / "run-1"
    weights = (folder / "model" / "weights.safetensors").read_bytes()
    assert service.job(job_id).status == "running"
    if not is_same_machine:  # another one never had the folder; it has the checkpoint of the last step
        shutil.rmtree(folder)
    service.let_lease_lapse(job_id)

    service.start_worker("second")
    service.start_reaper()

    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert [run.outcome for run in service.runs(job_id)] == ["lost", "succeeded"]
    assert service.train_steps(job_id) == [1, 2, 3, 4]
    messages = [event.message for event in service.events(job_id)]
    assert ("The training had finished in run-1; its model is adopted." in messages) == is_same_machine
    assert ("Going on from step 4 of 4." in messages) == (not is_same_machine)
    with reading(service.engine) as session:
        uri = get_model(session, job.owner, job.model_id).artifact_uri
    with service.artifacts.open(f"{uri}/weights.safetensors") as published:
        assert published.read() == weights
    service.wait_for_no_run_folder()


def test_a_job_whose_wake_up_was_lost_runs_once_on_one_of_two_workers(service, make_service, archive):
    nowhere = make_service(broker_url="redis+socket:///nowhere/valkey.sock")
    job_id = service.submit(archive, num_steps=1, wakes=False)
    assert wake(nowhere.queue, job_id) is False
    for name in ("one", "two"):
        service.start_worker(name)
    for _ in range(5):
        wake(service.queue, "ftjob-of-another-name")

    service.start_reaper()

    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert job.fence == 1
    assert [run.outcome for run in service.runs(job_id)] == ["succeeded"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_reaper_waits_for_the_migrations_and_ends_at_once(make_service, number):
    service = make_service()
    (service.settings.home_dir / "alignclip.db").unlink()
    reaper = service.start_reaper()
    while "schema_not_current" not in service.logs():
        assert is_alive(reaper)
        time.sleep(0.05)
    reaper.send_signal(number)
    assert reaper.wait() == 0
