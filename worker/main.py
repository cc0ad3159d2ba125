"""celery -A worker.main worker --concurrency 1: a process that trains one job at a time.

Celery carries wake-ups alone; the jobs are in the database (docs/decisions/0003-the-database-is-the-queue.md).
"""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import Any

import structlog
from celery import Task
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_shutting_down

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine
from alignclip_store.logs import configure_logging
from alignclip_store.queue import WORK_TASK, create_queue
from alignclip_store.runs import WorkerIdentity
from alignclip_store.settings import Settings
from worker import tasks
from worker.adoption import may_be_adopted
from worker.current_run import Workplace
from worker.lease import check_intervals
from worker.life import Life
from worker.run_folders import sweep_run_dirs
from worker.shutdown import ShutdownFlag

log = structlog.get_logger()

settings = Settings()
check_intervals(settings.lease_seconds, settings.heartbeat_seconds)
app = create_queue(settings)
shutting_down = ShutdownFlag()  # made before the fork: the main process sets it, its pool children see it


def work(task: Task, job_id: str) -> None:
    """Answer a wake-up. The id in it is a hint for the log: the oldest queued job is the one that runs."""
    log.info("woken", job_id=job_id)
    life(task.request.hostname).tell(answered=True)
    tasks.work(workplace(task.request.hostname))
    life(task.request.hostname).tell(answered=True)


@functools.cache
def life(node: str) -> Life:
    """The entry of this process in the register of workers."""
    return Life(create_engine(settings), identity_of(node))


def identity_of(node: str) -> WorkerIdentity:
    """Who this process is."""
    return WorkerIdentity(
        name=f"{node}/{os.getpid()}",
        host=socket.gethostname(),
        device=describe_device(),
        num_devices=len(settings.gpus.split(",")) if settings.gpus is not None else 1,
    )


@functools.cache
def workplace(node: str) -> Workplace:
    """What this process works with. Made at its first task, so after the fork: connections must not be shared.

    Whatever killed workers left on this machine is removed on the way, but for models that their jobs still lack.
    """
    engine = create_engine(settings)
    num_removed = sweep_run_dirs(settings.runs_location, lambda folder: may_be_adopted(engine, folder))
    log.info("run_dirs_swept", num_removed=num_removed)
    return Workplace(
        settings=settings,
        engine=engine,
        artifacts=ArtifactStore(settings.artifacts_location),
        identity=identity_of(node),
        shutting_down=shutting_down,
    )


def describe_device() -> str:
    """What a trainer of this worker computes on, as far as one can tell without torch."""
    names = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    models = [
        line.split(":", 1)[1].strip() for name in names for line in name.splitlines() if line.startswith("Model:")
    ]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not models or visible == "":
        return "cpu"
    if visible is None:
        return "cuda: " + ", ".join(models)
    chosen = [models[int(index)] for index in visible.split(",") if index.isdigit() and int(index) < len(models)]
    return f"cuda {visible}" + (f": {', '.join(chosen)}" if chosen else "")


def _configure_logging(**_: Any) -> None:
    configure_logging()


def _begin_life(sender: str, **_: Any) -> None:
    """In a pool child, after the fork."""
    living = life(sender)
    living.start()
    worker_process_shutdown.connect(lambda **_: living.end(), weak=False)


def _announce_shutdown(**_: Any) -> None:
    shutting_down.set()


app.task(work, name=WORK_TASK, bind=True)
setup_logging.connect(_configure_logging)
worker_shutting_down.connect(_announce_shutdown)
worker_process_init.connect(_begin_life)
