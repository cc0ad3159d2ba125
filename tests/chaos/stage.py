"""A whole service under attack: API, two workers, a reaper, and the servers that they stand on."""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psutil
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

from alignclip_core.faults import DISK_FULL, FaultPoint
from alignclip_store.database import reading, transaction
from alignclip_store.queue import wake
from alignclip_store.tables import Event, Job, Run
from tests.chaos.cases import CHECKPOINT_EVERY, NUM_STEPS
from tests.chaos.small_disk import SmallDisk
from tests.servers import Server
from tests.worker.conftest import is_alive

KEY = "acl-secret"  # the environment of every process names it
WORKERS = ("one", "two")
WAIT_SECONDS = 600.0  # for one thing; much of it on a machine that has other things to do
CLOCK_JUMP = timedelta(days=1)  # of clock_jump.c
LARGE_WRITE = {
    "sqlite": "PRAGMA user_version = 0",  # a page, for which a log that was just emptied has no room
    "postgresql": "SELECT pg_logical_emit_message(true, 'chaos', repeat('x', 1000000))",  # of 16 MB that a log file has
}


@dataclass(frozen=True)
class Held:
    """A living process of a job that waits at a point, and the worker that it belongs to, or is a part of."""

    point: FaultPoint
    process: psutil.Process
    worker: psutil.Popen
    job_id: str


@dataclass
class Stage:
    """The service, what of it lives, and the jobs that it accepted."""

    service: Any  # of tests/worker/conftest.py
    archive: bytes
    broker: Server
    database: Server | None  # None: SQLite
    has_api: bool
    port: int = 0
    processes: dict[str, psutil.Popen] = field(default_factory=dict)
    job_ids: dict[str, str] = field(default_factory=dict)  # by Idempotency-Key
    file_id: str | None = None  # of the uploaded archive
    refusals: list[httpx2.Response] = field(default_factory=list)  # answers that were errors of the service
    clock_library: Path | None = None  # of processes whose clock may jump
    disks: list[SmallDisk] = field(default_factory=list)  # those of run directories and artifacts
    database_disk: SmallDisk | None = None

    def start(self) -> None:
        if self.has_api:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        self.heal()

    def heal(self) -> None:
        """Start what does not live."""
        for name in (*WORKERS, "reaper", *(["api"] if self.has_api else [])):
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                self.processes[name] = self._start(name)

    def submit(self, key: str) -> None:
        """Create one more job, trying again as a client does until the answer is a job."""
        if not self.has_api:
            steps = {"num_steps": NUM_STEPS, "checkpoint_every_steps": CHECKPOINT_EVERY}
            self.job_ids[key] = self.service.submit(self.archive, **steps)
            return
        deadline = time.monotonic() + WAIT_SECONDS
        while key not in self.job_ids:
            assert time.monotonic() < deadline, f"No answer to a POST:\n{self.logs('api')}"
            with contextlib.suppress(httpx2.TransportError):
                self._post(key)
            time.sleep(0.2)

    def send_job(self) -> None:
        """Make sure that a job comes by all points: one that waits for its first run, or a new one."""
        with reading(self.service.engine) as session:
            waiting = session.scalars(select(Job.id).where(Job.started_at.is_(None))).first()
        if waiting is None:
            self.submit(self.new_key())

    def new_key(self) -> str:
        """An Idempotency-Key that no job has."""
        return f"job-{len(self.job_ids)}"

    def hold(self, point: FaultPoint, arrival: int) -> Held:
        """Hold the process that comes to the point as the `arrival`-th, of a job that is its worker's."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self.service.arm(point, str(arrival))
            self.send_job()
            held = self._find_held(point)
            if held is not None:
                return held
            assert time.monotonic() < deadline, f"Only runs without a lease come to {point}:\n{self.logs()}"
            self.service.release(point)

    def _find_held(self, point: FaultPoint) -> Held | None:
        """None if it has died meanwhile, or its run is lost and will end at once."""
        try:
            process = self.service.wait_held(point, WAIT_SECONDS)
            (worker,) = [
                worker
                for name, worker in self.processes.items()
                if name in WORKERS and process in worker.children(recursive=True)
            ]
            child = process if process in worker.children() else process.parent()
        except (psutil.NoSuchProcess, ValueError):
            return None
        with reading(self.service.engine) as session:
            runs = session.scalars(select(Run).where(Run.worker.endswith(f"/{child.pid}"))).all()
        run = max(runs, key=lambda run: true_time(run.started_at))
        is_living = run.ended_at is None and is_alive(process) and is_alive(worker)
        return Held(point, process, worker, run.job_id) if is_living else None

    def wait_for_lost_run(self, job_id: str) -> None:
        """Until the reaper has given up the job's present run."""
        fence = self.job(job_id).fence
        self.wait_until(lambda: self._outcome(job_id, fence) == "lost", f"{job_id} keeps its lease")

    def wait_until(self, condition: Any, otherwise: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{otherwise}:\n{self.logs()}"
            time.sleep(0.1)

    def wait_for_ends(self) -> None:
        """Until every job that was accepted has ended."""
        for job_id in self.job_ids.values():
            self.wait_for_end(job_id)

    def wait_for_end(self, job_id: str) -> None:
        self.wait_until(lambda: self.job(job_id).finished_at is not None, f"{job_id} does not end")

    def job(self, job_id: str) -> Job:
        with reading(self.service.engine) as session:
            return session.scalars(select(Job).where(Job.id == job_id)).one()

    def wait_for_full_disk(self, after: int, job_id: str | None = None) -> str:
        """Until a run was given up because of it, of the job if it is named, in an event behind that number; whose."""
        found: list[str] = []

        def is_told() -> bool:
            with reading(self.service.engine) as session:
                events = session.scalars(select(Event).where(Event.level == "warn", Event.id > after)).all()
            told = [event.job_id for event in events if event.data and event.data.get("code") == DISK_FULL]
            found.extend(each for each in told if job_id in (None, each))
            return bool(found)

        self.wait_until(is_told, "Nobody says that the disk is full")
        return found[0]

    def last_event(self) -> int:
        """The number of the newest event of any job."""
        with reading(self.service.engine) as session:
            return session.scalar(select(func.max(Event.id))) or 0

    def wait_for_no_run_folder(self) -> None:
        """Until all are gone; a worker that was killed leaves its own to whoever takes a wake-up in its place."""

        def is_tidy() -> bool:
            wake(self.service.queue, "tidy")
            return not any(self.service.settings.runs_location.iterdir())

        self.wait_until(is_tidy, "Run directories are left")

    def tidy_database(self) -> None:
        """Have SQLite empty its log, whose file would take a lot of writes on a full disk."""
        if self.database is None:
            path = self.service.engine.url.database
            with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
                assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)

    def is_write_refused(self) -> bool:
        """Whether the database does not take a large write."""
        engine = self.service.engine
        try:
            with transaction(engine) as session:
                session.execute(text(LARGE_WRITE[engine.dialect.name]))
        except OperationalError:
            return True
        return False

    def num_lost_runs(self) -> int:
        with reading(self.service.engine) as session:
            return session.scalar(select(func.count()).where(Run.outcome == "lost")) or 0

    def logs(self, name: str = "*") -> str:
        texts = [path.read_text()[-4000:] for path in sorted(self.service.settings.home_dir.glob(f"{name}.log"))]
        return "\n".join(texts)

    @property
    def clock_file(self) -> Path:
        """The wall clock of processes with the library is a day ahead while this file is there."""
        return self.service.settings.home_dir / "clock"

    def _outcome(self, job_id: str, fence: int) -> str | None:
        with reading(self.service.engine) as session:
            return session.scalars(select(Run.outcome).where(Run.job_id == job_id, Run.fence == fence)).one()

    def _start(self, name: str) -> psutil.Popen:
        clock = {}
        if self.clock_library is not None and (name in WORKERS or self.database is None):
            clock = {"LD_PRELOAD": str(self.clock_library), "CLOCK_JUMP_FILE": str(self.clock_file)}
        if name == "reaper":
            return self.service._start("reaper", ["-m", "worker.reaper"], **clock)
        if name == "api":
            arguments = ["-m", "uvicorn", "--factory", "api.main:create_app_from_environment", "--port", str(self.port)]
            return self.service._start("api", arguments, **clock)
        return self.service.start_worker(name, **clock)

    def _post(self, key: str) -> None:
        url, headers = f"http://127.0.0.1:{self.port}/v1", {"Authorization": f"Bearer {KEY}"}
        with httpx2.Client(timeout=60, headers=headers, trust_env=False) as client:
            form = {"files": {"file": ("colours.zip", self.archive)}, "data": {"purpose": "fine-tune"}}
            if self.file_id is None:
                self.file_id = client.post(f"{url}/files", **form).raise_for_status().json()["id"]
            body = {"model": "tiny", "training_file": self.file_id, "num_steps": NUM_STEPS, "global_batch_size": 6}
            body |= {"checkpoint_every_steps": CHECKPOINT_EVERY, "learning_rate": 1e-3, "seed": 0}
            answer = client.post(f"{url}/fine_tuning/jobs", json=body, headers={"Idempotency-Key": key})
            if answer.status_code >= 500:
                self.refusals.append(answer)
            else:
                self.job_ids[key] = answer.raise_for_status().json()["id"]


def true_time(moment: datetime) -> datetime:
    """When it was; what lies before us was written while the clock was ahead."""
    return moment - CLOCK_JUMP if moment > datetime.now(UTC) else moment


def build_clock_library(folder: Path) -> Path:
    """What moves the wall clock of the processes that load it."""
    library = folder / "clock_jump.so"
    source = Path(__file__).with_name("clock_jump.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def signal_worker(worker: psutil.Popen, number: int) -> None:
    """To a worker's main process and its pool child; its trainer has a group of its own."""
    os.killpg(worker.pid, number)
