"""Numbers for Prometheus: jobs and runs from the database at the time of the scrape, requests as this process saw them.

With several API processes each tells the same of jobs and runs: take the maximum over them, and the sum of requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastapi import APIRouter, Request, Response, Security, params
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from alignclip_store.database import reading
from alignclip_store.job_status import JobStatus
from alignclip_store.settings import Settings
from alignclip_store.summary import Summary, summarise
from alignclip_store.workers import STATUSES, WorkerState
from api.dependencies import ResourcesDep, get_caller

router = APIRouter(tags=["health"])


def access(settings: Settings) -> list[params.Depends]:
    """What the route asks of a reader: an admin's key, unless the operator opened the numbers to all.

    They tell how busy everybody is. Prometheus sends the key (`authorization` of its scrape config);
    `ALIGNCLIP_METRICS_ACCESS=open` is for networks that only the operator reaches.
    """
    return [Security(get_caller, scopes=["admin"])] if settings.metrics_access == "key" else []


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' format."}},
)
def read_metrics(request: Request, resources: ResourcesDep) -> Response:
    """Queue, jobs, runs, leases and step times of all owners; requests and classifications of this process."""
    with reading(resources.engine) as session:
        summary = summarise(session, resources.settings)
    registry = CollectorRegistry()
    registry.register(_Families(_families(summary)))
    content = generate_latest(registry) + generate_latest(request.app.state.measurements.registry)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Families(Collector):
    """Metrics that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(summary: Summary) -> Iterator[Metric]:
    yield _gauge("alignclip_queue_depth", "Jobs that wait for a worker.", summary.num_jobs[JobStatus.QUEUED])
    yield _labelled("alignclip_jobs", "Jobs by status.", "status", summary.num_jobs)
    yield _labelled("alignclip_runs", "Runs by outcome; open: a worker is at it.", "outcome", summary.num_runs)
    yield _gauge("alignclip_oldest_waiting_seconds", "Age of the oldest waiting job.", summary.oldest_waiting_seconds)
    if summary.shortest_lease_seconds is not None:
        yield _gauge(
            "alignclip_shortest_lease_seconds",
            "Time until the first lease lapses; below zero nobody reaps.",
            summary.shortest_lease_seconds,
        )
    yield _labelled("alignclip_step_seconds", "Step time of running jobs.", "base_model", summary.step_seconds)
    workers = Counter(worker.status for worker in summary.workers)
    counts: dict[str, float] = {status: workers[status] for status in STATUSES}
    yield _labelled("alignclip_workers", "Workers; silent: alive, and leaves a job waiting.", "status", counts)
    yield from _gpu_memory(summary.workers)
    yield _gauge("alignclip_webhook_deliveries_due", "Webhook messages to be sent.", summary.num_deliveries_due)


def _gpu_memory(workers: Sequence[WorkerState]) -> Iterator[Metric]:
    """As the workers' machines last told; nothing where there is no GPU."""
    living = [worker for worker in workers if worker.status != "gone"]
    places = {(worker.host, str(gpu["index"])): gpu for worker in living for gpu in worker.gpus}
    for kind in ("used", "total"):
        name = f"alignclip_gpu_memory_{kind}_bytes"
        family = GaugeMetricFamily(name, f"GPU memory, {kind}, by NVML.", labels=["host", "gpu"])
        for place, gpu in sorted(places.items()):
            family.add_metric(place, gpu[f"{kind}_bytes"])
        if places:
            yield family


def _gauge(name: str, description: str, value: float) -> Metric:
    return GaugeMetricFamily(name, description, value=value)


def _labelled(name: str, description: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, description, labels=[label])
    for each, value in sorted(values.items()):
        family.add_metric([each], value)
    return family
