"""Clients, workers and reapers in any order, against a model of a few lines: `holders`, who may write to a job."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import Engine, delete, select, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.errors import IllegalTransition, LeaseLost
from alignclip_store.job_status import CLAIMED, FINISHED
from alignclip_store.jobs import request_cancel
from alignclip_store.pausing import request_pause, resume_job, retry_job
from alignclip_store.runs import (
    Claim,
    NewModel,
    WorkerIdentity,
    claim_next,
    finish,
    heartbeat,
    pause,
    reap,
    record_checkpoint,
    record_metrics,
    release,
    start_training,
)
from alignclip_store.settings import Settings
from alignclip_store.tables import Checkpoint, Event, Job, Metric, Model, Run

ENDINGS = ("successfully completed", "has been cancelled", "It broke", "the job has failed")
ERROR = {"code": "broken", "message": "It broke.", "param": None}
LEASE_SECONDS = 3600  # none runs out by itself, however slow the machine
IDENTITY = WorkerIdentity(name="w", host="h", device="cpu")


def _metrics(session: Any, claim: Claim) -> None:
    record_metrics(session, claim, [{"step": claim.fence, "kind": "train", "values": {"run": claim.run_id}}])


def _checkpoint(session: Any, claim: Claim) -> None:
    record_checkpoint(session, claim, step=1, artifact_uri="artifact:c", metrics={})


def _heartbeat(session: Any, claim: Claim) -> None:
    heartbeat(session, claim, LEASE_SECONDS)


def _fail(session: Any, claim: Claim) -> None:
    finish(session, claim, "failed", error=ERROR)


def _succeed(session: Any, claim: Claim) -> None:
    finish(session, claim, "succeeded", result={}, model=NewModel(artifact_uri="artifact:m", manifest={}))


WRITES = (start_training, _heartbeat, _metrics, _checkpoint)
ENDS = (release, pause, _fail, _succeed)


class Leases(RuleBasedStateMachine):
    """One database; what a claim may do depends on who else has claimed since, and never on luck."""

    jobs: Any = Bundle("jobs")
    claims: Any = Bundle("claims")

    def __init__(self, engine: Engine, settings: Settings, new_job: Callable[..., Job], seen: Counter[str]) -> None:
        super().__init__()
        self.engine, self.settings, self.new_job, self.seen = engine, settings, new_job, seen
        self.holders: dict[str, Claim] = {}  # in the order of their claims: ids are random and would not draw alike
        self.fences: Counter[str] = Counter()
        self.num_retries: Counter[str] = Counter()
        with transaction(engine) as session:
            for table in (Event, Metric, Checkpoint, Model, Run, Job):
                session.execute(delete(table))

    @rule(target=jobs)
    def create(self) -> str:
        return self.new_job().id

    @rule(target=claims)
    def claim(self) -> Any:
        with transaction(self.engine) as session:
            claim = claim_next(session, IDENTITY, LEASE_SECONDS)
        if claim is None:
            return multiple()
        assert claim.job_id not in self.holders, "two hold one job"
        self.fences[claim.job_id] += 1
        assert claim.fence == self.fences[claim.job_id]
        self.holders[claim.job_id] = claim
        return claim

    @rule(target=claims)
    def create_and_claim(self) -> Any:
        """So that there is always somebody at work whose claim can lapse, be cancelled or end."""
        self.new_job()
        return self.claim()

    @rule(claim=claims, write=st.sampled_from(WRITES))
    def write(self, claim: Claim, write: Callable[..., object]) -> None:
        """By a claim that is held or by one that was lost long ago."""
        self._write(claim, write)

    @rule(claim=claims, end=st.sampled_from(ENDS), starts=st.booleans())
    def end(self, claim: Claim, end: Callable[..., object], starts: bool) -> None:
        """By any claim that there ever was."""
        self._end(claim, end, starts)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), end=st.sampled_from(ENDS))
    def work_to_an_end(self, data: st.DataObject, end: Callable[..., object]) -> None:
        """By a claim that is held."""
        claim = self.holders[data.draw(st.sampled_from(list(self.holders)))]
        for write in WRITES:
            self._write(claim, write)
        self._end(claim, end, starts=False)

    def _end(self, claim: Claim, end: Callable[..., object], starts: bool) -> None:
        if starts:
            self._write(claim, start_training)
        if end is pause:
            self._wish(claim.job_id, request_pause)  # a worker pauses what somebody wants paused
        if self._write(claim, end):
            del self.holders[claim.job_id]

    @rule(job_id=jobs, wish=st.sampled_from([request_cancel, request_pause, resume_job, retry_job]))
    def wish(self, job_id: str, wish: Callable[..., object]) -> None:
        """A client wants something, whatever the job's state."""
        self._wish(job_id, wish)

    def _wish(self, job_id: str, wish: Callable[..., object]) -> None:
        try:
            with transaction(self.engine) as session:
                wish(session, "ada", job_id)
        except IllegalTransition:
            self.seen["wish refused"] += 1
            return
        assert wish is not retry_job or job_id not in self.holders
        self.num_retries[job_id] += wish is retry_job

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """Some leases run out, and a reaper sees it."""
        lost = data.draw(st.lists(st.sampled_from(list(self.holders)), min_size=1, unique=True))
        with transaction(self.engine) as session:
            past = database_now(session) - timedelta(seconds=1)
            session.execute(update(Job).where(Job.id.in_(lost)).values(lease_until=past))
        with transaction(self.engine) as session:
            assert sorted(reap(session, self.settings)) == sorted(lost)
        for job_id in lost:
            del self.holders[job_id]

    @rule()
    def reap_nothing(self) -> None:
        """A lease that stands is nobody's to take."""
        with transaction(self.engine) as session:
            assert reap(session, self.settings) == []

    @invariant()
    def rows_say_what_the_model_says(self) -> None:
        with reading(self.engine) as session:
            runs = session.scalars(select(Run).order_by(Run.fence)).all()
            models = session.scalars(select(Model)).all()
            events = session.execute(select(Event.job_id, Event.message)).all()
            for job in session.scalars(select(Job)):
                self._check_job(
                    job,
                    [run for run in runs if run.job_id == job.id],
                    [model.id for model in models if model.job_id == job.id],
                    [message for job_id, message in events if job_id == job.id and _is_ending(message)],
                )

    def _write(self, claim: Claim, write: Callable[..., object]) -> bool:
        is_held = self.holders.get(claim.job_id) == claim
        try:
            with transaction(self.engine) as session:
                write(session, claim)
        except LeaseLost:
            assert not is_held
            self.seen["stale write refused"] += 1
            return False
        except IllegalTransition:
            assert is_held, "a lost claim must not learn more than that it is lost"
            return False
        assert is_held
        self.seen[getattr(write, "__name__", "")] += 1
        return True

    def _check_job(self, job: Job, runs: list[Run], models: list[str], endings: list[str]) -> None:
        holder = self.holders.get(job.id)
        assert [run.fence for run in runs] == list(range(1, job.fence + 1))
        assert [run.id for run in runs if run.outcome is None] == ([holder.run_id] if holder else [])
        assert (job.status in CLAIMED) == (holder is not None) == (job.lease_until is not None)
        assert (job.status in FINISHED) == (job.finished_at is not None)
        assert len(endings) == (job.status in FINISHED) + self.num_retries[job.id], endings
        assert models == ([job.model_id] if job.status == "succeeded" else [])
        if not self.num_retries[job.id]:
            assert job.num_lost_runs == sum(run.outcome == "lost" for run in runs)


def _is_ending(message: str) -> bool:
    return any(ending in message for ending in ENDINGS)


def test_whatever_happens_in_whatever_order_each_job_has_one_holder_and_one_end(
    engine: Engine, make_settings: Callable[..., Settings], new_job: Callable[..., Job]
) -> None:
    seen: Counter[str] = Counter()
    run_machine(
        lambda: Leases(engine, make_settings(lease_seconds=LEASE_SECONDS), new_job, seen),
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            database=None,
            phases=[Phase.generate],  # to shrink a failure takes minutes
        ),
    )
    assert seen["stale write refused"] > 10, "the machine must try what is forbidden"
    assert not [write.__name__ for write in (*WRITES, *ENDS) if not seen[write.__name__]], "each must have succeeded"
