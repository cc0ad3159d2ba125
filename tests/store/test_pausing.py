"""Pause, resume and retry: the client's wishes in every state of a job."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.errors import DatasetRejected, IllegalTransition, JobNotFound
from alignclip_store.events import list_events
from alignclip_store.files import create_file, delete_file
from alignclip_store.jobs import list_runs, request_cancel
from alignclip_store.pausing import request_pause, resume_job, retry_job
from alignclip_store.runs import (
    Claim,
    NewModel,
    WorkerIdentity,
    claim_next,
    finish,
    heartbeat,
    jobs_to_wake,
    pause,
    reap,
    release,
    start_training,
)
from alignclip_store.settings import Settings
from alignclip_store.tables import Job

ERROR = {"code": "training_diverged", "message": "The loss became NaN at step 7.", "param": None}
WORKER = WorkerIdentity(name="w", host="h", device="cpu")


@pytest.fixture
def act(engine: Engine) -> Callable[..., object]:
    """Calls a function of the store in a transaction of its own."""

    def call(function: Callable[..., object], *arguments: object, **named: object) -> object:
        with transaction(engine) as session:
            return function(session, *arguments, **named)

    return call


def _outcomes(engine: Engine, job_id: str) -> list[str | None]:
    with reading(engine) as session:
        return [run.outcome for run in list_runs(session, "ada", job_id)]


def test_a_waiting_job_is_paused_at_once_and_nobody_claims_or_wakes_for_it(act, new_job, settings: Settings) -> None:
    job = new_job()
    assert act(request_pause, "ada", job.id).status == "paused"
    assert act(request_pause, "ada", job.id).status == "paused"
    assert act(claim_next, WORKER, 60) is None
    assert act(jobs_to_wake, settings) == []
    assert act(resume_job, "ada", job.id).status == "queued"
    assert act(jobs_to_wake, settings) == [job.id]


def test_a_running_job_is_paused_by_its_worker(act, engine, new_job, claim, read_job) -> None:
    job, ours = new_job(), claim()
    act(start_training, ours)
    wished = act(request_pause, "ada", job.id)
    assert (wished.status, act(request_pause, "ada", job.id).pause_requested_at) == (
        "running",
        wished.pause_requested_at,
    )
    assert act(heartbeat, ours, 60) == "paused"
    act(pause, ours)
    paused = read_job(job.id)
    assert (paused.status, paused.phase, paused.lease_until, paused.pause_requested_at) == (
        "paused",
        "paused",
        None,
        None,
    )
    assert _outcomes(engine, job.id) == ["paused"]
    assert paused.num_lost_runs == 0
    act(resume_job, "ada", job.id)
    assert claim().fence == 2


def test_a_pause_that_is_withdrawn_while_the_worker_stops_queues_the_job_again(act, new_job, claim, read_job) -> None:
    job, ours = new_job(), claim()
    act(request_pause, "ada", job.id)
    act(resume_job, "ada", job.id)
    assert act(heartbeat, ours, 60) is None
    act(pause, ours)
    assert read_job(job.id).status == "queued"


def test_a_cancel_outweighs_a_pause(act, new_job, claim, read_job) -> None:
    job, ours = new_job(), claim()
    act(request_pause, "ada", job.id)
    act(request_cancel, "ada", job.id)
    assert act(heartbeat, ours, 60) == "cancelled"
    act(pause, ours)
    assert read_job(job.id).status == "cancelled"


def test_a_paused_job_can_be_cancelled(act, new_job) -> None:
    job = new_job()
    act(request_pause, "ada", job.id)
    assert act(request_cancel, "ada", job.id).status == "cancelled"


def test_a_worker_that_stops_or_dies_leaves_the_job_paused_when_that_was_wished(
    act, engine, new_job, claim, read_job, settings: Settings
) -> None:
    stopped, first = new_job(), claim()
    act(request_pause, "ada", stopped.id)
    act(release, first)
    assert read_job(stopped.id).status == "paused"
    lost, _ = new_job(), claim()
    act(request_pause, "ada", lost.id)
    with transaction(engine) as session:
        past = database_now(session) - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == lost.id).values(lease_until=past))
    act(reap, settings)
    job = read_job(lost.id)
    assert (job.status, job.num_lost_runs, job.pause_requested_at) == ("paused", 1, None)
    assert _outcomes(engine, lost.id) == ["lost"]


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_job_that_ended_badly_is_tried_again_as_the_same_job(
    act, engine, new_job, claim, read_job, settings: Settings, ending: str
) -> None:
    job, ours = new_job(), claim()
    with transaction(engine) as session:
        session.execute(update(Job).values(num_lost_runs=2))
    act(finish, ours, ending, error=ERROR if ending == "failed" else None)
    retried = act(retry_job, "ada", job.id)
    assert (retried.status, retried.num_lost_runs, retried.error) == ("queued", 0, None)
    assert (retried.finished_at, retried.cancel_requested_at) == (None, None)
    with reading(engine) as session:
        messages = [event.message for event in list_events(session, "ada", job.id)[0]]
    assert (ERROR["message"] in messages) == (ending == "failed")
    again = claim()
    assert (again.job_id, again.fence) == (job.id, 2)
    act(start_training, again)
    act(finish, again, "succeeded", result={}, model=NewModel(artifact_uri="artifact:m", manifest={}))
    assert read_job(job.id).status == "succeeded"


def test_a_retry_needs_the_files_of_the_job(act, engine, new_job) -> None:
    with transaction(engine) as session:
        values = {"filename": "a.zip", "purpose": "fine-tune", "num_bytes": 1, "sha256": "0" * 64}
        file = create_file(session, "ada", **values, artifact_uri="artifact:files/a")
    job = new_job(training_file=file.id)
    act(request_cancel, "ada", job.id)
    act(delete_file, "ada", file.id)
    with pytest.raises(DatasetRejected, match="create the job anew") as raised:
        act(retry_job, "ada", job.id)
    assert raised.value.param == "training_file"


def test_wishes_that_make_no_sense_are_refused(act, new_job, claim) -> None:
    job = new_job()
    for wish in (resume_job, retry_job):
        with pytest.raises(IllegalTransition, match="is queued"):
            act(wish, "ada", job.id)
    ours = claim()
    for wish in (resume_job, retry_job):
        with pytest.raises(IllegalTransition, match="is validating_files"):
            act(wish, "ada", job.id)
    act(request_cancel, "ada", job.id)
    with pytest.raises(IllegalTransition, match="being cancelled"):
        act(request_pause, "ada", job.id)
    act(finish, ours, "cancelled")
    for wish in (request_pause, resume_job):
        with pytest.raises(IllegalTransition, match="is cancelled"):
            act(wish, "ada", job.id)


@pytest.mark.parametrize("wish", [request_pause, resume_job, retry_job])
def test_nobody_wishes_for_anothers_job(act, new_job, wish: Callable[..., Job]) -> None:
    job = new_job(owner="bob")
    with pytest.raises(JobNotFound):
        act(wish, "ada", job.id)


def test_urgent_jobs_are_claimed_and_woken_for_first_and_equal_ones_in_their_order(
    new_job, claim: Callable[..., Claim], act, settings: Settings
) -> None:
    ids = [new_job(priority=priority).id for priority in (0, -10, 10, 0, 10)]
    order = [ids[2], ids[4], ids[0], ids[3], ids[1]]
    assert act(jobs_to_wake, settings) == order
    assert [claim().job_id for _ in ids] == order
