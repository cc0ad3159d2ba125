"""How fast a base model trains or classifies here, by what its last jobs measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.job_kinds import FACTS, JobKind
from alignclip_store.tables import Job, Metric, Run

NUM_RECENT_JOBS = 3
NUM_RECORDS = 50  # of each of them, the last
DEFAULT_IMAGES_PER_SECOND = 20.0  # where nothing was measured: a small tower on a few CPU cores
DEFAULT_BATCH_SIZE = 32
STARTUP_SECONDS = 30.0  # of a run outside its steps: claim, staging, loading, storing the model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Images a second, and where the number comes from."""

    images_per_second: float
    batch_size: float  # of the jobs that were measured
    device: str | None  # that they ran on; None: nothing was measured, this is the default
    num_devices: int = 1  # that trained together

    @property
    def seconds_per_step(self) -> float:
        return self.batch_size / self.images_per_second


def measured_speed(session: Session, base_model: str, kind: JobKind = JobKind.FINE_TUNING) -> Speed:
    """The median over the last records of the base model's newest jobs, whoever owns them; else the default.

    A step of a classification is one image.
    """
    default_size = DEFAULT_BATCH_SIZE if kind == JobKind.FINE_TUNING else 1
    jobs = session.execute(
        select(Job.id, Job.config)
        .where(Job.base_model == base_model, Job.kind == kind, Job.step > 0)
        .order_by(Job.started_at.desc(), Job.id)
        .limit(NUM_RECENT_JOBS)
    ).all()
    rates, sizes = [], []
    for job_id, config in jobs:
        records = select(Metric.values).where(Metric.job_id == job_id, Metric.kind == FACTS[kind].step_metrics)
        for values in session.scalars(records.order_by(Metric.step.desc()).limit(NUM_RECORDS)):
            rates += _positive(values)
            sizes.append(float(config.get("global_batch_size") or default_size))
    if not rates:
        return Speed(images_per_second=DEFAULT_IMAGES_PER_SECOND, batch_size=default_size, device=None)
    newest = select(Run.device, Run.num_devices).where(Run.job_id == jobs[0].id).order_by(Run.fence.desc()).limit(1)
    device, num_devices = session.execute(newest).tuples().first() or ("unknown", 1)
    return Speed(
        images_per_second=statistics.median(rates),
        batch_size=statistics.median(sizes),
        device=device,
        num_devices=num_devices,
    )


def _positive(values: Mapping[str, Any]) -> list[float]:
    rate = values.get("images_per_second")
    return [float(rate)] if isinstance(rate, int | float) and rate > 0 else []
