"""The queue, as far as it is the asking owner's business."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from alignclip_store.database import reading
from alignclip_store.waiting import Place, Worker, count_jobs, view_queue
from api.answers import seconds_or_none
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


class WorkerAnswer(BaseModel):
    """A worker as its runs show it."""

    worker: str
    host: str
    device: str
    status: Literal["busy", "idle"] = Field(description="idle: it ended a run within the last hour and has none now.")
    job_id: str | None = Field(description="Null also for a job of another owner.")


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
    return QueueAnswer(
        jobs=counts,
        num_waiting=len(queue.places),
        next_start=seconds_or_none(queue.next_start_at),
        waiting=[QueuedJob.of(job_id, place) for job_id, place in queue.places.items() if place.owner == owner],
        workers=[_answer(worker, owner) for worker in queue.workers],
    )


def _answer(worker: Worker, owner: str) -> WorkerAnswer:
    return WorkerAnswer(
        worker=worker.name,
        host=worker.host,
        device=worker.device,
        status="idle" if worker.job_id is None else "busy",
        job_id=worker.job_id if worker.owner == owner else None,
    )
