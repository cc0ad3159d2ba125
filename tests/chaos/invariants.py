"""What must hold after all that was done, read off rows, event log and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import httpx2
import psutil
from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import reading
from alignclip_store.job_status import FINISHED
from alignclip_store.tables import Checkpoint, Event, Job, Metric, Model, Run
from tests.chaos.cases import NUM_STEPS
from tests.chaos.stage import Stage, true_time

ENDINGS = ("successfully completed", "has been cancelled", "has failed")
DATABASE_AWAY = (503, "database_unavailable")
TIMES = ("images_per_second",)  # the only numbers of a step that a clock goes into


def broken_invariants(stage: Stage, reference_id: str) -> list[str]:
    """A sentence for everything that is wrong with any job; `reference_id` is one that nothing was done to."""
    with reading(stage.service.engine) as session:
        jobs = list(session.scalars(select(Job)))
        reference = _training_of(session, stage.service.artifacts, reference_id)
        wrong = [
            f"{job.id}: {sentence}"
            for job in jobs
            for sentence in [
                *_wrong_end(job, session),
                *_wrong_runs(session.scalars(select(Run).where(Run.job_id == job.id).order_by(Run.fence)).all()),
                *_wrong_training(_training_of(session, stage.service.artifacts, job.id), reference),
                *_wrong_checkpoints(session, stage.service.artifacts, job),
            ]
        ]
    ids = sorted(job.id for job in jobs)
    if ids != sorted(stage.job_ids.values()):
        wrong.append(f"{len(set(stage.job_ids.values()))} jobs were accepted, {len(ids)} are there")
    return wrong + _wrong_answers(stage) + _left_behind(stage)


def _wrong_end(job: Job, session: Session) -> list[str]:
    """One terminal state, told once."""
    if job.status != "succeeded":
        return [f"is {job.status}: {job.error}"]
    messages = session.scalars(select(Event.message).where(Event.job_id == job.id)).all()
    endings = [message for message in messages if any(ending in message for ending in ENDINGS)]
    models = session.scalars(select(Model.id).where(Model.job_id == job.id)).all()
    wrong = [] if len(endings) == 1 else [f"ended {len(endings)} times: {endings}"]
    if list(models) != [job.model_id] or job.status not in FINISHED or job.lease_until is not None:
        wrong.append(f"has models {models}, names {job.model_id}, lease {job.lease_until}")
    return wrong


def _wrong_runs(runs: Sequence[Run]) -> list[str]:
    """Fences count up by one, and no run began before the former had ended."""
    fences = [run.fence for run in runs]
    wrong = [] if fences == list(range(1, len(runs) + 1)) else [f"has fences {fences}"]
    if [run.outcome for run in runs].count("succeeded") != 1 or runs[-1].outcome != "succeeded":
        wrong.append(f"has runs {[run.outcome for run in runs]}")
    for former, later in pairwise(runs):
        if former.ended_at is None or true_time(later.started_at) < true_time(former.ended_at):
            wrong.append(f"runs {former.fence} and {later.fence} held it at one time")
    return wrong


def _training_of(session: Session, artifacts: ArtifactStore, job_id: str) -> dict[str, Any]:
    """What a training came to: the numbers of every step, and the weights."""
    metrics = session.scalars(select(Metric).where(Metric.job_id == job_id).order_by(Metric.id)).all()
    steps = [
        (metric.step, metric.kind, {name: value for name, value in metric.values.items() if name not in TIMES})
        for metric in metrics
    ]
    uri = session.scalar(select(Model.artifact_uri).where(Model.job_id == job_id))
    return {"steps": sorted(steps, key=lambda step: step[:2]), "weights": _weights_hash(artifacts, uri)}


def _weights_hash(artifacts: ArtifactStore, uri: str | None) -> str | None:
    """None unless the files are whole."""
    if uri is None:
        return None
    with artifacts.open(f"{uri}/weights.safetensors") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    with artifacts.open(f"{uri}/manifest.json") as file:
        return found if json.load(file)["weights_sha256"] == found else None


def _wrong_training(training: dict[str, Any], reference: dict[str, Any]) -> list[str]:
    """Each step once, and number for number what an undisturbed run says."""
    steps = [step for step, kind, _ in training["steps"] if kind == "train"]
    wrong = [] if steps == list(range(1, NUM_STEPS + 1)) else [f"counted the steps {steps}"]
    if training["steps"] != reference["steps"]:
        differing = [each[:2] for each in training["steps"] if each not in reference["steps"]]
        wrong.append(f"has other numbers than an undisturbed run in {differing}")
    if training["weights"] is None or training["weights"] != reference["weights"]:
        wrong.append(f"has weights {training['weights']}, an undisturbed run {reference['weights']}")
    return wrong


def _wrong_checkpoints(session: Session, artifacts: ArtifactStore, job: Job) -> list[str]:
    """Every checkpoint that a row names is there."""
    checkpoints = session.scalars(select(Checkpoint).where(Checkpoint.job_id == job.id)).all()
    missing = [each.step for each in checkpoints if not artifacts.exists(f"{each.artifact_uri}/manifest.json")]
    return [f"names checkpoints that are not there: {missing}"] if missing or not checkpoints else []


def _wrong_answers(stage: Stage) -> list[str]:
    """A client that creates a job gets it, or is told that the database is away."""
    wrong = [answer for answer in stage.refusals if (answer.status_code, _code_of(answer)) != DATABASE_AWAY]
    return [f"a client was answered {answer.status_code}: {answer.text[:500]}" for answer in wrong]


def _code_of(answer: httpx2.Response) -> str | None:
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


def _left_behind(stage: Stage) -> list[str]:
    """No trainer outlives its job."""
    trainers = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if str(stage.service.settings.runs_location) in " ".join(process.info["cmdline"] or [])
    ]
    return [f"trainers are left: {trainers}"] if trainers else []
