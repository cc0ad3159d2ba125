"""The faults themselves: each is told what is held, lets it go on, and returns when the next one may come."""

from __future__ import annotations

import random
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import redis

from alignclip_core.faults import DISK_FULL
from tests.chaos.cases import Case
from tests.chaos.stage import CLOCK_JUMP, Held, Stage, signal_worker
from tests.worker.conftest import is_alive

AWAY_SECONDS = 2.0  # how long a killed server stays away


class Faults:
    """Does one case after the other to a stage."""

    def __init__(self, stage: Stage, *, seed: int) -> None:
        self._stage = stage
        self._random = random.Random(seed)

    def do(self, case: Case) -> str:
        """Hold a process of a job at the point and do it; the id of that job. Fails if nothing living came there."""
        stage = self._stage
        if case.action == "fill_disk" and not stage.disks:
            return self._inject_full_disk(case)
        held = stage.hold(case.point, case.arrival)
        getattr(self, case.action)(held)
        stage.service.release(case.point)
        stage.heal()
        return held.job_id

    def kill_trainer(self, held: Held) -> None:
        held.process.kill()
        held.process.wait(60)
        assert is_alive(held.worker)

    def kill_worker(self, held: Held) -> None:
        signal_worker(held.worker, signal.SIGKILL)
        held.worker.wait(60)

    def kill_both(self, held: Held) -> None:
        held.process.kill()
        self.kill_worker(held)

    def kill_api(self, held: Held) -> None:
        """While a client creates a job, and at once or a moment later."""
        api = self._stage.processes["api"]
        client = threading.Thread(target=self._stage.submit, args=(self._stage.new_key(),))
        client.start()
        time.sleep(self._random.uniform(0, 0.3))
        assert is_alive(api)
        api.kill()
        api.wait()
        self._stage.heal()
        client.join()

    def stall_worker(self, held: Held) -> None:
        """It wakes when another may have the job, and goes on as if no time had passed."""
        signal_worker(held.worker, signal.SIGSTOP)
        self._stage.wait_for_lost_run(held.job_id)
        signal_worker(held.worker, signal.SIGCONT)
        assert is_alive(held.worker)

    def kill_broker(self, held: Held) -> None:
        """It comes back later, with no message left; meanwhile jobs are taken."""
        self._stage.broker.end(signal.SIGKILL)
        self._stage.submit(self._stage.new_key())
        time.sleep(AWAY_SECONDS)
        self._stage.broker.start()

    def flush_broker(self, held: Held) -> None:
        with redis.Redis(unix_socket_path=self._stage.broker.url.partition("://")[2]) as client:
            client.flushall()

    def restart_broker(self, held: Held) -> None:
        self._stage.broker.end(signal.SIGTERM)
        self._stage.broker.start()

    def cut_database(self, held: Held) -> None:
        """Every connection ends, whatever it was about."""
        with psycopg.connect(self._stage.database.url, autocommit=True) as connection:
            cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            (num_cut,) = connection.execute(f"{cut} AND backend_type = 'client backend'").fetchone()
        assert num_cut > 0

    def restart_database(self, held: Held) -> None:
        self._stage.database.end(signal.SIGQUIT)
        time.sleep(AWAY_SECONDS)
        self._stage.database.start()

    def jump_clock(self, held: Held) -> None:
        """A day ahead while they go on, longer than a lease, and then right again. A client creates a job meanwhile."""
        self._go_ahead(held)
        self._stage.service.release(held.point)
        self._stage.submit(self._stage.new_key())
        time.sleep(self._stage.service.settings.lease_seconds + AWAY_SECONDS)
        self._stage.clock_file.unlink()
        if self._stage.database is not None:  # its clock was right all the time
            assert not self._is_leased_ahead(held.job_id)

    def kill_ahead(self, held: Held) -> None:
        """The same, and a worker that has a job then dies before it can say how late it is."""
        stage = self._stage
        self._go_ahead(held)
        stage.service.release(held.point)
        ahead = stage.hold(held.point, arrival=1)
        stage.wait_until(lambda: self._is_leased_ahead(ahead.job_id), f"{ahead.job_id} has no lease of tomorrow")
        signal_worker(ahead.worker, signal.SIGSTOP)
        stage.clock_file.unlink()
        assert self._is_leased_ahead(ahead.job_id)
        self.kill_worker(ahead)
        stage.wait_for_lost_run(ahead.job_id)

    def _go_ahead(self, held: Held) -> None:
        """All that have the clock library are a day ahead."""
        assert str(self._stage.clock_library) in Path(f"/proc/{held.worker.pid}/maps").read_text()
        self._stage.clock_file.touch()

    def _is_leased_ahead(self, job_id: str) -> bool:
        lease_until = self._stage.job(job_id).lease_until
        return lease_until is not None and lease_until > datetime.now(UTC) + CLOCK_JUMP / 2

    def fill_database(self, held: Held) -> None:
        """That of the database alone, from before the job goes on until its lease has lapsed.

        A client creates a job meanwhile. No process dies of it but the database's server, whom others start again.
        """
        stage = self._stage
        disk = stage.database_disk
        assert disk is not None
        stage.tidy_database()
        disk.fill()
        client = threading.Thread(target=stage.submit, args=(stage.new_key(),))
        client.start()
        stage.service.release(held.point)
        stage.wait_until(stage.is_write_refused, "The database still finds room")
        time.sleep(stage.service.settings.lease_seconds + AWAY_SECONDS)
        dead = [name for name, process in stage.processes.items() if not is_alive(process)]
        assert dead == [], stage.logs()
        disk.free()
        if stage.database is not None and stage.database.process.poll() is not None:
            stage.database.start()
        client.join()

    def fill_disk(self, held: Held) -> None:
        """Those of run directories and of artifacts, until a run was given up for it, with the reason in its events.

        A model that is in the store already needs no room any more.
        """
        stage, last_event = self._stage, self._stage.last_event()
        for disk in stage.disks:
            disk.fill()
        stage.service.release(held.point)
        if held.point == "before_finish_commit":
            stage.wait_for_end(held.job_id)
        else:
            stage.wait_for_full_disk(last_event, held.job_id)
        for disk in stage.disks:
            disk.free()

    def _inject_full_disk(self, case: Case) -> str:
        """Where the tests may not have disks of their own."""
        last_event = self._stage.last_event()
        self._stage.service.arm(case.point, DISK_FULL)
        self._stage.send_job()
        return self._stage.wait_for_full_disk(last_event)
