"""A real trainer that is paused, resumed, cancelled and tried again."""

from alignclip_store.checkpoints import list_checkpoints
from alignclip_store.database import reading, transaction
from alignclip_store.jobs import request_cancel
from alignclip_store.pausing import request_pause, resume_job, retry_job
from alignclip_store.queue import wake

LONG = 100_000  # steps: no test waits for the last of them


def test_a_run_that_takes_too_long_is_ended_with_a_next_step(make_service, archive):
    service = make_service(max_run_seconds=1.0)
    service.start_worker()
    job = service.wait_for_end(service.submit(archive, num_steps=LONG))
    assert (job.status, job.error["code"]) == ("failed", "deadline_exceeded"), service.logs()
    assert "retry" in job.error["message"]
    assert [run.outcome for run in service.runs(job.id)] == ["failed"]
    with transaction(service.engine) as session:
        assert retry_job(session, "owner", job.id).status == "queued"


def test_a_paused_job_frees_its_worker_and_goes_on_from_where_it_was(running_service, archive, is_gone):
    service = running_service
    job_id = service.submit(archive, num_steps=LONG, checkpoint_every_steps=LONG)
    service.wait_for_step(job_id, 1)
    trainer = service.trainer(job_id)

    with transaction(service.engine) as session:
        request_pause(session, "owner", job_id)

    job = service.wait(job_id, lambda job: job.status == "paused")
    assert is_gone(trainer)
    assert (job.num_lost_runs, job.pause_requested_at, job.finished_at) == (0, None, None)
    paused_at = service.train_steps(job_id)[-1]
    with reading(service.engine) as session:
        (checkpoint,) = list_checkpoints(session, "owner", job_id)[0]
    assert checkpoint.step == paused_at
    other = service.submit(archive, num_steps=1)  # the worker is free for others
    assert service.wait_for_end(other).status == "succeeded"
    assert service.job(job_id).status == "paused"

    with transaction(service.engine) as session:
        resume_job(session, "owner", job_id)
    wake(service.queue, job_id)
    service.wait_for_step(job_id, paused_at + 1)

    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id)
    assert service.wait_for_end(job_id).status == "cancelled"
    cancelled_at = service.train_steps(job_id)[-1]

    with transaction(service.engine) as session:
        retry_job(session, "owner", job_id)
    service.wait_for_step(job_id, cancelled_at + 1)
    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id)
    service.wait_for_end(job_id)

    steps = service.train_steps(job_id)
    assert steps == list(range(1, steps[-1] + 1))
    assert [run.outcome for run in service.runs(job_id)] == ["paused", "cancelled", "cancelled"]
    assert f"Going on from step {paused_at} of {LONG}." in [event.message for event in service.events(job_id)]
