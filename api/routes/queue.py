"""The queue, as far as it is the asking owner's business."""

from __future__ import annotations

from collections.abc import Set
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from alignclip_store.database import reading
from alignclip_store.waiting import Place, count_jobs, view_queue
from alignclip_store.workers import WorkerState, WorkerStatus, list_workers
from api.answers import seconds, seconds_or_none
from api.dependencies import OwnerDep, ResourcesDep

router = APIRouter(prefix="/v1/queue", tags=["queue"])


class QueuedJob(BaseModel):
    """Where one of the owner's jobs waits."""

    id: str
    position: int = Field(description="Among the waiting jobs of all owners; 1 is the next.")
    estimated_start: int | None = Field(description="Null while no worker is known.")

    @classmethod
    def of(cls, job_id: str, place: Place) -> QueuedJob:
        return cls(id=job_id, position=place.position, estimated_start=seconds_or_none(place.estimated_start_at))


class GpuAnswer(BaseModel):
    """Memory of one GPU of a worker's machine, as it last told."""

    index: int
    name: str
    used_bytes: int
    total_bytes: int


class WorkerAnswer(BaseModel):
    """A worker by its signs of life."""

    worker: str
    host: str
    device: str
    status: WorkerStatus = Field(
        description="silent: its process runs, but it leaves a job waiting that it could claim, or its lease lapsed. "
        "gone: no sign of life for a minute."
    )
    job_id: str | None = Field(description="Null also for a job of another owner.")
    last_seen: int = Field(description="Its last sign of life.")
    last_answer: int = Field(description="When it last took a wake-up.")
    gpus: list[GpuAnswer]


class QueueAnswer(BaseModel):
    """Who works and who waits."""

    object: Literal["queue"] = "queue"
    jobs: dict[str, int] = Field(description="Number of the owner's jobs in each state.")
    num_waiting: int = Field(description="Waiting jobs of all owners.")
    next_start: int | None = Field(description="When a job that came now would start; null while no worker is known.")
    waiting: list[QueuedJob] = Field(description="The owner's waiting jobs, in the order of their claims.")
    workers: list[WorkerAnswer]


@router.get("")
def retrieve_queue(owner: OwnerDep, resources: ResourcesDep) -> QueueAnswer:
    """The owner's jobs by state, its waiting jobs with their places, and the workers that are known."""
    with reading(resources.engine) as session:
        queue = view_queue(session)
        counts = count_jobs(session, owner)
        workers = list_workers(session, resources.settings)
    own_jobs = {worker.job_id for worker in queue.workers if worker.owner == owner}
    return QueueAnswer(
        jobs=counts,
        num_waiting=len(queue.places),
        next_start=seconds_or_none(queue.next_start_at),
        waiting=[QueuedJob.of(job_id, place) for job_id, place in queue.places.items() if place.owner == owner],
        workers=[_answer(worker, own_jobs) for worker in workers],
    )


def _answer(worker: WorkerState, own_jobs: Set[str | None]) -> WorkerAnswer:
    return WorkerAnswer(
        worker=worker.name,
        host=worker.host,
        device=worker.device,
        status=worker.status,
        job_id=worker.job_id if worker.job_id in own_jobs else None,
        last_seen=seconds(worker.seen_at),
        last_answer=seconds(worker.answered_at),
        gpus=[GpuAnswer(**gpu) for gpu in worker.gpus],
    )
