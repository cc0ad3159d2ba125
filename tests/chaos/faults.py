"""The faults themselves: each is told which process is held, and returns when the service can go on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import psycopg
import redis

from alignclip_core.faults import DISK_FULL
from tests.chaos.cases import Case
from tests.chaos.stage import Stage, is_alive, signal_worker

AWAY_SECONDS = 2.0  # how long a killed server stays away


class Faults:
    """Does one case after the other to a stage."""

    def __init__(self, stage: Stage, *, has_small_disk: bool, seed: int) -> None:
        self._stage = stage
        self._has_small_disk = has_small_disk
        self._random = random.Random(seed)

    def do(self, case: Case, number: int) -> str:
        """Hold a process of a job at the point and do it; the id of that job. Fails if nothing living came there."""
        stage = self._stage
        injects = case.action == "fill_disk" and not self._has_small_disk
        stage.service.arm(case.point, DISK_FULL if injects else str(case.arrival))
        stage.submit(f"job-{number}")
        if injects:
            return stage.wait_for_full_disk()
        held, worker, job_id = stage.held_job(case.point)
        getattr(self, case.action)(held, worker, job_id)
        stage.service.release(case.point)
        if case.action == "fill_disk":
            self._await_full_disk(job_id)
        stage.heal()
        return job_id

    def kill_trainer(self, held, worker, job_id) -> None:
        held.kill()
        held.wait(60)
        assert is_alive(worker)

    def kill_worker(self, held, worker, job_id) -> None:
        signal_worker(worker, signal.SIGKILL)
        worker.wait(60)

    def kill_both(self, held, worker, job_id) -> None:
        held.kill()
        self.kill_worker(held, worker, job_id)

    def kill_api(self, held, worker, job_id) -> None:
        """While a client creates a job, and at once or a moment later."""
        api, key = self._stage.processes["api"], f"beside-{job_id}"
        client = threading.Thread(target=self._stage.submit, args=(key,))
        client.start()
        time.sleep(self._random.uniform(0, 0.3))
        assert is_alive(api)
        api.kill()
        api.wait()
        self._stage.heal()
        client.join()

    def stall_worker(self, held, worker, job_id) -> None:
        """It wakes when another may have the job, and goes on as if no time had passed."""
        signal_worker(worker, signal.SIGSTOP)
        self._stage.wait_for_lost_run(job_id)
        signal_worker(worker, signal.SIGCONT)
        assert is_alive(worker)

    def kill_broker(self, held, worker, job_id) -> None:
        """It comes back later, with no message left; meanwhile jobs are taken."""
        self._stage.broker.end(signal.SIGKILL)
        self._stage.submit(f"beside-{job_id}")
        time.sleep(AWAY_SECONDS)
        self._stage.broker.start()

    def flush_broker(self, held, worker, job_id) -> None:
        with redis.Redis(unix_socket_path=self._stage.broker.url.partition("://")[2]) as client:
            client.flushall()

    def restart_broker(self, held, worker, job_id) -> None:
        self._stage.broker.end(signal.SIGTERM)
        self._stage.broker.start()

    def cut_database(self, held, worker, job_id) -> None:
        """Every connection ends, whatever it was about."""
        with psycopg.connect(self._stage.database.url, autocommit=True) as connection:
            cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            (num_cut,) = connection.execute(f"{cut} AND backend_type = 'client backend'").fetchone()
        assert num_cut > 0

    def restart_database(self, held, worker, job_id) -> None:
        self._stage.database.end(signal.SIGQUIT)
        time.sleep(AWAY_SECONDS)
        self._stage.database.start()

    def jump_clock(self, held, worker, job_id) -> None:
        """The workers' machine is a day ahead while they go on, longer than a lease, and then is right again."""
        assert str(self._stage.clock_library) in Path(f"/proc/{worker.pid}/maps").read_text()
        self._stage.clock_file.touch()
        self._stage.service.release("mid_step")
        time.sleep(self._stage.service.settings.lease_seconds + AWAY_SECONDS)
        self._stage.clock_file.unlink()

    def fill_disk(self, held, worker, job_id) -> None:
        """All of it, byte by byte at the end, so that not even error.json finds room."""
        with self._stage.filler.open("wb") as file:
            for size in (2**20, 2**12, 1):
                try:
                    while True:
                        os.write(file.fileno(), b"\0" * size)
                except OSError:
                    continue

    def _await_full_disk(self, job_id: str) -> None:
        """The run must be given up, with the reason in the job's events."""
        stage = self._stage
        stage.wait_for_full_disk(job_id)
        stage.filler.unlink(missing_ok=True)
