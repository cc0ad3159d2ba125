"""Clients, workers and reapers in random order, against a model of a few lines."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, update

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
from alignclip_store.tables import Event, Job, Model, Run

NUM_STEPS = 600
ENDINGS = ("successfully completed", "has been cancelled", "It broke", "the job has failed")


class Walk:
    """Does one random thing after another; `holder` is the model: which claim may write to a job."""

    def __init__(self, engine: Engine, settings: Settings, new_job: Callable[..., Job], seed: int) -> None:
        self.engine = engine
        self.settings = settings
        self.new_job = new_job
        self.random = random.Random(seed)
        self.job_ids: list[str] = []
        self.claims: list[Claim] = []
        self.holder: dict[str, Claim] = {}
        self.num_refused = 0
        self.num_retries: Counter[str] = Counter()

    def create(self) -> None:
        self.job_ids.append(self.new_job().id)

    def claim(self) -> None:
        with transaction(self.engine) as session:
            claim = claim_next(session, WorkerIdentity(name="w", host="h", device="cpu"), 60)
        if claim is not None:
            assert claim.job_id not in self.holder, "two hold one job"
            assert all(former.fence < claim.fence for former in self.claims if former.job_id == claim.job_id)
            self.claims.append(claim)
            self.holder[claim.job_id] = claim

    def cancel(self) -> None:
        if self.job_ids:
            job_id = self.random.choice(self.job_ids)
            try:
                with transaction(self.engine) as session:
                    request_cancel(session, "ada", job_id)
            except IllegalTransition:
                assert job_id not in self.holder

    def wish(self) -> None:
        """A client pauses a job, resumes it or tries it again, whatever its state."""
        if self.job_ids:
            job_id = self.random.choice(self.job_ids)
            wish = self.random.choice([request_pause, resume_job, resume_job, retry_job])
            try:
                with transaction(self.engine) as session:
                    wish(session, "ada", job_id)
            except IllegalTransition:
                return
            assert wish is not retry_job or job_id not in self.holder
            self.num_retries[job_id] += wish is retry_job

    def reap(self) -> None:
        """Some leases run out, and a reaper sees it."""
        lost = [job_id for job_id in self.holder if self.random.random() < 0.2]
        with transaction(self.engine) as session:
            past = database_now(session) - timedelta(seconds=1)
            session.execute(update(Job).where(Job.id.in_(lost)).values(lease_until=past))
        with transaction(self.engine) as session:
            assert sorted(reap(session, self.settings)) == sorted(lost)
        for job_id in lost:
            del self.holder[job_id]

    def write(self) -> None:
        """A worker writes, by a claim that it still holds or by one that it lost long ago."""
        if not self.claims:
            return
        claim = self.random.choice(self.claims[-6:])
        write, ends = self.random.choice(WRITES)
        is_held = self.holder.get(claim.job_id) == claim
        try:
            with transaction(self.engine) as session:
                write(session, claim)
        except LeaseLost:
            assert not is_held
            self.num_refused += 1
        except IllegalTransition:
            assert is_held, "a lost claim must not learn more than that it is lost"
        else:
            assert is_held
            if ends:
                del self.holder[claim.job_id]


ERROR = {"code": "broken", "message": "It broke.", "param": None}
WRITES: list[tuple[Callable[..., object], bool]] = [
    (lambda session, claim: heartbeat(session, claim, 60), False),
    *[(start_training, False)] * 3,
    (
        lambda session, claim: record_metrics(
            session, claim, [{"step": claim.fence, "kind": "train", "values": {"run": claim.run_id}}]
        ),
        False,
    ),
    (lambda session, claim: record_checkpoint(session, claim, step=1, artifact_uri="artifact:c", metrics={}), False),
    (release, True),
    (pause, True),
    (lambda session, claim: finish(session, claim, "failed", error=ERROR), True),
    (
        lambda session, claim: finish(
            session, claim, "succeeded", result={}, model=NewModel(artifact_uri="artifact:m", manifest={})
        ),
        True,
    ),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_in_whatever_order_each_job_has_one_holder_and_one_end(
    engine: Engine, settings: Settings, new_job: Callable[..., Job], seed: int
) -> None:
    walk = Walk(engine, settings, new_job, seed)
    actions = [walk.create, walk.claim, walk.claim, walk.cancel, walk.wish, walk.reap, *[walk.write] * 8]
    for _ in range(NUM_STEPS):
        walk.random.choice(actions)()
    assert walk.num_refused > 10, "the walk must try what is forbidden"
    with reading(engine) as session:
        jobs = session.scalars(select(Job)).all()
        assert {job.status for job in jobs} >= {"succeeded", "failed", "cancelled"}
        for job in jobs:
            runs = session.scalars(select(Run).where(Run.job_id == job.id).order_by(Run.fence)).all()
            assert [run.fence for run in runs] == list(range(1, job.fence + 1))
            open_runs = [run.id for run in runs if run.outcome is None]
            holder = walk.holder.get(job.id)
            assert open_runs == ([holder.run_id] if holder else [])
            assert (job.status in CLAIMED) == (holder is not None) == (job.lease_until is not None)
            assert (job.status in FINISHED) == (job.finished_at is not None)
            messages = session.scalars(select(Event.message).where(Event.job_id == job.id)).all()
            endings = [message for message in messages if any(ending in message for ending in ENDINGS)]
            assert len(endings) == (job.status in FINISHED) + walk.num_retries[job.id], endings
            if not walk.num_retries[job.id]:
                assert job.num_lost_runs == sum(run.outcome == "lost" for run in runs)
            models = session.scalars(select(Model).where(Model.job_id == job.id)).all()
            assert [model.id for model in models] == ([job.model_id] if job.status == "succeeded" else [])
