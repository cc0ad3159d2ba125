"""Claims, fences and the ends of jobs."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, func, select, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.errors import CheckpointNotFound, IllegalTransition, LeaseLost
from alignclip_store.events import list_events
from alignclip_store.jobs import list_metrics, list_runs, request_cancel
from alignclip_store.models import get_model
from alignclip_store.runs import (
    Claim,
    NewModel,
    WorkerIdentity,
    claim_next,
    claimed_job,
    finish,
    forget_checkpoint,
    heartbeat,
    jobs_to_wake,
    latest_checkpoint,
    reap,
    record_checkpoint,
    record_event,
    record_log,
    record_metrics,
    record_phase,
    release,
    start_training,
)
from alignclip_store.settings import Settings
from alignclip_store.tables import Checkpoint, Event, Job, Metric, Model, Run

ERROR = {"code": "training_diverged", "message": "The loss became NaN at step 7.", "param": None}
WRITES: dict[str, Callable[..., object]] = {
    "heartbeat": lambda session, claim: heartbeat(session, claim, 60),
    "claimed_job": claimed_job,
    "start_training": start_training,
    "record_phase": lambda session, claim: record_phase(session, claim, "training"),
    "record_event": lambda session, claim: record_event(session, claim, "info", "hello"),
    "record_log": lambda session, claim: record_log(session, claim, "artifact:log"),
    "record_metrics": lambda session, claim: record_metrics(
        session, claim, [{"step": 1, "kind": "train", "values": {"loss": 1.0}}]
    ),
    "record_checkpoint": lambda session, claim: record_checkpoint(
        session, claim, step=1, artifact_uri="artifact:c", metrics={}
    ),
    "forget_checkpoint": lambda session, claim: forget_checkpoint(session, claim, "ckpt-none"),
    "succeed": lambda session, claim: finish(
        session, claim, "succeeded", result={}, model=NewModel(artifact_uri="artifact:m", manifest={})
    ),
    "fail": lambda session, claim: finish(session, claim, "failed", error=ERROR),
    "cancel": lambda session, claim: finish(session, claim, "cancelled"),
    "release": release,
}


def _train(step: int, loss: float = 1.0) -> dict[str, object]:
    return {"step": step, "kind": "train", "values": {"loss": loss}}


def _expire(engine: Engine) -> None:
    """Let the leases of all claimed jobs run out."""
    with transaction(engine) as session:
        past = database_now(session) - timedelta(seconds=1)
        session.execute(update(Job).where(Job.lease_until.is_not(None)).values(lease_until=past))


def _reap(engine: Engine, settings: Settings) -> list[str]:
    with transaction(engine) as session:
        return reap(session, settings)


def test_the_oldest_queued_job_is_claimed_first(new_job: Callable[..., Job], claim: Callable[..., Claim]) -> None:
    ids = [new_job(owner=owner).id for owner in ("ada", "bob", "ada")]
    assert [claim().job_id for _ in range(3)] == ids


def test_a_claim_opens_a_run_under_the_next_fence(
    engine: Engine, new_job: Callable[..., Job], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        before = database_now(session)
        claim = claim_next(session, WorkerIdentity(name="gpu-0", host="node7", device="H100"), 60.0)
        after = database_now(session)
    assert claim is not None
    assert (claim.job_id, claim.owner, claim.fence) == (job.id, "ada", 1)
    claimed = read_job(job.id)
    assert (claimed.status, claimed.worker, claimed.fence) == ("validating_files", "gpu-0", 1)
    assert claimed.started_at is not None
    assert claimed.lease_until is not None
    assert before <= claimed.lease_until - timedelta(seconds=60) <= after
    with reading(engine) as session:
        (run,) = list_runs(session, "ada", job.id)
    assert (run.id, run.host, run.device, run.worker, run.fence) == (claim.run_id, "node7", "H100", "gpu-0", 1)
    assert (run.ended_at, run.outcome) == (None, None)


def test_nothing_is_claimed_when_nothing_is_queued(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    new_job()
    claim()
    cancelled = new_job()
    with transaction(engine) as session:
        request_cancel(session, "ada", cancelled.id)
    with transaction(engine) as session:
        assert claim_next(session, WorkerIdentity(name="w", host="h", device="cpu"), 60.0) is None


CLAIM_ALL = """
import json, sys
from alignclip_store.database import create_engine, transaction
from alignclip_store.runs import WorkerIdentity, claim_next, finish
from alignclip_store.settings import Settings

engine = create_engine(Settings(database_url=sys.argv[1]))
identity = WorkerIdentity(name=sys.argv[2], host="host", device="cpu")
claimed = []
print("ready", flush=True)
sys.stdin.readline()
while True:
    with transaction(engine) as session:
        claim = claim_next(session, identity, 60.0)
    if claim is None:
        break
    claimed.append(claim.job_id)
    with transaction(engine) as session:
        finish(session, claim, "cancelled")
print(json.dumps(claimed))
"""


def test_of_many_processes_that_claim_at_once_each_job_has_one_winner(
    engine: Engine, database_url: str, new_job: Callable[..., Job]
) -> None:
    ids = [new_job().id for _ in range(120)]
    command = [sys.executable, "-c", CLAIM_ALL, database_url]
    processes = [
        subprocess.Popen([*command, f"worker-{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    claimed = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert sorted(job_id for ids_of_one in claimed for job_id in ids_of_one) == sorted(ids)
    assert sum(bool(ids_of_one) for ids_of_one in claimed) > 1, "one process did all: there was no race"
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 120
        assert session.scalars(select(Job.fence).distinct()).all() == [1]


def test_a_heartbeat_renews_the_lease(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    ours = claim(lease_seconds=1)
    before = read_job(job.id).lease_until
    with transaction(engine) as session:
        heartbeat(session, ours, 500)
    assert read_job(job.id).lease_until - before > timedelta(seconds=400)


@pytest.mark.parametrize("write", WRITES)
def test_after_another_claim_no_write_of_the_former_run_is_taken(
    engine: Engine,
    settings: Settings,
    new_job: Callable[..., Job],
    claim: Callable[..., Claim],
    read_job: Callable[[str], Job],
    write: str,
) -> None:
    job = new_job()
    former = claim()
    _expire(engine)
    assert _reap(engine, settings) == [job.id]
    present = claim(name="worker-2")
    assert (present.job_id, present.fence) == (job.id, 2)
    before = read_job(job.id)
    with pytest.raises(LeaseLost, match="fence 1"), transaction(engine) as session:
        WRITES[write](session, former)
    after = read_job(job.id)
    assert (after.status, after.fence, after.phase, after.lease_until, after.step) == (
        before.status,
        before.fence,
        before.phase,
        before.lease_until,
        before.step,
    )
    with reading(engine) as session:
        for table in (Metric, Checkpoint, Model):
            assert session.scalar(select(func.count()).select_from(table)) == 0
        runs = list_runs(session, "ada", job.id)
        assert [(run.outcome, run.log_uri) for run in runs] == [("lost", None), (None, None)]
        assert "hello" not in session.scalars(select(Event.message)).all()


@pytest.mark.parametrize("write", WRITES)
def test_a_run_that_was_given_up_writes_nothing_even_before_another_claims(
    engine: Engine, settings: Settings, new_job: Callable[..., Job], claim: Callable[..., Claim], write: str
) -> None:
    new_job()
    former = claim()
    _expire(engine)
    _reap(engine, settings)
    with pytest.raises(LeaseLost), transaction(engine) as session:
        WRITES[write](session, former)


def test_training_starts_once(engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]) -> None:
    new_job()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
    with pytest.raises(IllegalTransition, match="is running"), transaction(engine) as session:
        start_training(session, ours)


def test_a_job_that_never_trained_cannot_succeed(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    new_job()
    ours = claim()
    with pytest.raises(IllegalTransition, match="is validating_files"), transaction(engine) as session:
        finish(session, ours, "succeeded", result={})


def test_a_succeeded_job_has_its_model_its_result_and_an_ended_run(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job(suffix="my pets/2026")
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        record_phase(session, ours, "training")
    with transaction(engine) as session:
        record_log(session, ours, "artifact:log")
        new_model = NewModel(artifact_uri="artifact:m", manifest={"format_version": 1})
        finish(session, ours, "succeeded", result={"headline": {"accuracy": 0.9}}, model=new_model)
    done = read_job(job.id)
    assert (done.status, done.phase, done.result) == ("succeeded", "succeeded", {"headline": {"accuracy": 0.9}})
    assert (done.lease_until, done.worker, done.estimated_finish_at, done.error) == (None, None, None, None)
    assert done.model_id == f"ft:starter:ada:my-pets-2026:{job.id[-12:]}"
    with reading(engine) as session:
        model = get_model(session, "ada", done.model_id)
        assert (model.job_id, model.artifact_uri, model.manifest) == (job.id, "artifact:m", {"format_version": 1})
        (run,) = list_runs(session, "ada", job.id)
        assert (run.outcome, run.ended_at, run.log_uri) == ("succeeded", done.finished_at, "artifact:log")
        messages = [event.message for event in list_events(session, "ada", job.id)[0]]
    assert messages[:2] == ["The job has successfully completed.", f"New fine-tuned model created: {done.model_id}"]
    with pytest.raises(LeaseLost), transaction(engine) as session:
        finish(session, ours, "failed", error=ERROR)


def test_a_failed_job_says_why(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        finish(session, claim(), "failed", error=ERROR)
    failed = read_job(job.id)
    assert (failed.status, failed.error, failed.model_id) == ("failed", ERROR, None)
    with reading(engine) as session:
        event = list_events(session, "ada", job.id)[0][0]
    assert (event.level, event.message, event.data) == ("error", ERROR["message"], {"code": "training_diverged"})


@pytest.mark.parametrize(
    ("outcome", "fields"),
    [
        ("failed", {}),
        ("succeeded", {"error": ERROR}),
        ("cancelled", {"model": NewModel(artifact_uri="artifact:m", manifest={})}),
    ],
)
def test_an_end_that_contradicts_itself_is_refused(
    engine: Engine,
    new_job: Callable[..., Job],
    claim: Callable[..., Claim],
    outcome: str,
    fields: dict[str, object],
) -> None:
    new_job()
    ours = claim()
    with pytest.raises(ValueError, match=outcome), transaction(engine) as session:
        finish(session, ours, outcome, **fields)


def test_a_released_job_is_queued_again_and_charged_nothing(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    first = claim()
    with transaction(engine) as session:
        start_training(session, first)
        record_metrics(session, first, [_train(7)])
    with transaction(engine) as session:
        release(session, first)
    waiting = read_job(job.id)
    assert (waiting.status, waiting.phase, waiting.num_lost_runs, waiting.woken_at) == ("queued", "queued", 0, None)
    assert (waiting.lease_until, waiting.worker) == (None, None)
    second = claim()
    assert (second.job_id, second.fence) == (job.id, 2)
    with reading(engine) as session:
        assert [run.outcome for run in list_runs(session, "ada", job.id)] == ["stopped", None]
    assert read_job(job.id).started_at == waiting.started_at


def test_a_released_job_that_its_owner_cancelled_is_cancelled(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        request_cancel(session, "ada", job.id)
    with transaction(engine) as session:
        release(session, ours)
    assert read_job(job.id).status == "cancelled"


def test_a_stale_job_is_queued_again_and_its_run_is_lost(
    engine: Engine,
    settings: Settings,
    new_job: Callable[..., Job],
    claim: Callable[..., Claim],
    read_job: Callable[[str], Job],
) -> None:
    stale, alive = new_job(), new_job()
    claim(lease_seconds=0.0)
    claim(lease_seconds=60.0)
    assert _reap(engine, settings) == [stale.id]
    assert _reap(engine, settings) == []
    waiting = read_job(stale.id)
    assert (waiting.status, waiting.num_lost_runs, waiting.lease_until) == ("queued", 1, None)
    assert read_job(alive.id).status == "validating_files"
    with reading(engine) as session:
        (run,) = list_runs(session, "ada", stale.id)
        event = list_events(session, "ada", stale.id)[0][0]
    assert run.outcome == "lost"
    assert run.ended_at is not None
    assert event.level == "warn"
    assert "worker-1" in event.message


def test_a_job_that_loses_every_run_fails(
    engine: Engine,
    make_settings: Callable[..., Settings],
    new_job: Callable[..., Job],
    claim: Callable[..., Claim],
    read_job: Callable[[str], Job],
) -> None:
    job = new_job()
    statuses = []
    for _ in range(3):
        claim(lease_seconds=0.0)
        assert _reap(engine, make_settings(max_runs_per_job=3)) == [job.id]
        statuses.append(read_job(job.id).status)
    assert statuses == ["queued", "queued", "failed"]
    failed = read_job(job.id)
    assert failed.error["code"] == "worker_lost"
    assert failed.finished_at is not None
    with reading(engine) as session:
        assert [run.outcome for run in list_runs(session, "ada", job.id)] == ["lost"] * 3
        assert list_events(session, "ada", job.id)[0][0].level == "error"


def test_a_stale_job_that_its_owner_cancelled_is_cancelled(
    engine: Engine,
    settings: Settings,
    new_job: Callable[..., Job],
    claim: Callable[..., Claim],
    read_job: Callable[[str], Job],
) -> None:
    job = new_job()
    claim()
    with transaction(engine) as session:
        request_cancel(session, "ada", job.id)
    _expire(engine)
    _reap(engine, settings)
    cancelled = read_job(job.id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.finished_at is not None


def test_waiting_jobs_are_woken_once_per_interval(
    engine: Engine, make_settings: Callable[..., Settings], new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    new_job()
    claim()
    ids = [new_job().id for _ in range(3)]
    patient, hasty = make_settings(wake_again_seconds=500), make_settings(wake_again_seconds=1e-6)
    woken = []
    for settings in (patient, patient, hasty):
        with transaction(engine) as session:
            woken.append(jobs_to_wake(session, settings))
    assert woken == [ids, [], ids]


def test_a_job_that_comes_back_is_woken_at_once(
    engine: Engine, settings: Settings, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        assert jobs_to_wake(session, settings) == [job.id]
    claim(lease_seconds=0.0)
    _reap(engine, settings)
    with transaction(engine) as session:
        assert jobs_to_wake(session, settings) == [job.id]


def test_of_a_long_queue_only_the_front_is_woken(
    engine: Engine, settings: Settings, new_job: Callable[..., Job]
) -> None:
    ids = [new_job().id for _ in range(40)]
    with transaction(engine) as session:
        assert jobs_to_wake(session, settings) == ids[:32]
    with transaction(engine) as session:
        assert jobs_to_wake(session, settings) == []


def test_metrics_of_a_step_that_is_done_again_replace_the_former(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(step, loss=9.0) for step in (1, 2, 3)])
    with transaction(engine) as session:
        release(session, ours)
    ours = claim()
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(2, loss=1.0), _train(2, loss=float("nan"))])
    with reading(engine) as session:
        rows = list_metrics(session, "ada", job.id)[0]
    assert [(row.step, row.values["loss"]) for row in rows] == [(1, 9.0), (2, None), (3, 9.0)]
    assert read_job(job.id).step == 2


def test_the_estimated_finish_follows_the_measured_speed(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job(num_steps=1000)
    ours = claim()
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(step) for step in range(1, 101)])
    assert read_job(job.id).estimated_finish_at is None, "one batch of records tells no speed"
    with transaction(engine) as session:  # as if that batch had come 5000 seconds ago, in a run that began before it
        earlier = database_now(session) - timedelta(seconds=5000)
        session.execute(update(Metric).values(created_at=earlier))
        session.execute(update(Run).values(started_at=earlier))
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(step) for step in range(101, 201)])
        now = database_now(session)
    remaining = read_job(job.id).estimated_finish_at - now
    assert abs(remaining - timedelta(seconds=800 * 50)) < timedelta(seconds=1000)  # 100 steps in 5000 seconds


def test_the_speed_of_an_earlier_run_is_not_that_of_this_one(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim], read_job: Callable[[str], Job]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(step) for step in range(1, 50)])
    with transaction(engine) as session:
        release(session, ours)
    ours = claim()
    with transaction(engine) as session:
        record_metrics(session, ours, [_train(30)])
    assert read_job(job.id).estimated_finish_at is None


def test_a_checkpoint_of_a_step_that_is_done_again_replaces_the_former(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    new_job()
    ours = claim()
    with transaction(engine) as session:
        first = record_checkpoint(session, ours, step=50, artifact_uri="artifact:c/1/50", metrics={"loss": 2.0})
        record_checkpoint(session, ours, step=25, artifact_uri="artifact:c/1/25", metrics={})
    with transaction(engine) as session:
        second = record_checkpoint(session, ours, step=50, artifact_uri="artifact:c/2/50", metrics={"loss": 1.0})
    assert first.id == second.id
    with reading(engine) as session:
        latest = latest_checkpoint(session, ours)
    assert (latest.artifact_uri, latest.metrics) == ("artifact:c/2/50", {"loss": 1.0})
    with transaction(engine) as session:
        assert forget_checkpoint(session, ours, second.id).artifact_uri == "artifact:c/2/50"
    with reading(engine) as session:
        assert latest_checkpoint(session, ours).step == 25
    with pytest.raises(CheckpointNotFound), transaction(engine) as session:
        forget_checkpoint(session, ours, second.id)


def test_a_new_job_has_no_checkpoint(engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]) -> None:
    new_job()
    ours = claim()
    with reading(engine) as session:
        assert latest_checkpoint(session, ours) is None
