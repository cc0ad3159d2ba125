"""A backup that is taken while a job trains, as docs/operations.md says, and a service that goes on from it."""

import os
import shutil
import signal
import sqlite3

from alignclip_store.checkpoints import all_checkpoints
from alignclip_store.database import reading


def test_a_restored_backup_goes_on_with_the_jobs_that_ran_when_it_was_taken(make_service, archive):
    service, restored = make_service(), make_service()
    service.arm("mid_step", "50")
    worker = service.start_worker()
    job_id = service.submit(archive, num_steps=100, checkpoint_every_steps=20, evaluate_every_steps=50)
    waiting_id = service.submit(archive, wakes=False)

    def has_checkpoint(job):
        with reading(service.engine) as session:
            return bool(all_checkpoints(session, job.id))

    service.wait_held("mid_step")
    service.wait(job_id, has_checkpoint)
    os.killpg(worker.pid, signal.SIGSTOP)  # a copy of files that come and go may fail
    with sqlite3.connect(service.settings.home_dir / "alignclip.db") as source:
        restored.engine.dispose()
        copy = restored.settings.home_dir / "alignclip.db"
        copy.unlink()
        with sqlite3.connect(copy) as target:
            source.backup(target)  # what sqlite3's .backup does
    shutil.copytree(service.settings.home_dir / "artifacts", restored.settings.home_dir / "artifacts")
    service.stop()  # the machine is lost

    job = restored.job(job_id)
    assert (job.status, restored.job(waiting_id).status) == ("running", "queued")
    restored.let_lease_lapse(job_id)
    restored.start_reaper()
    restored.start_worker()
    job = restored.wait_for_end(job_id)
    assert job.status == "succeeded", restored.logs()
    messages = [event.message for event in restored.events(job_id)]
    assert any(message.startswith("The job goes on from the checkpoint of step") for message in messages), messages
    assert restored.train_steps(job_id) == list(range(1, 101)), "each step once"
    assert [run.outcome for run in restored.runs(job_id)] == ["lost", "succeeded"]
