"""What one run of a job works with, and the ways in which it writes to the job's row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from alignclip_core.run_dir import RunDir
from alignclip_store import runs
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import transaction
from alignclip_store.errors import LeaseLost
from alignclip_store.events import Level
from alignclip_store.retention import run_prefix
from alignclip_store.runs import Claim, WorkerIdentity
from alignclip_store.settings import Settings
from alignclip_store.tables import Job
from worker.lease import Lease
from worker.outcome import RunStopped, StopReason
from worker.shutdown import ShutdownFlag

log = structlog.get_logger()

WRITE_AGAIN_SECONDS = 1.0
AWAY_ERRORS = (OperationalError, InterfaceError, PoolTimeout)

Written = TypeVar("Written")


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """What all runs of one worker process share."""

    settings: Settings
    engine: Engine  # made after the fork
    artifacts: ArtifactStore
    identity: WorkerIdentity
    shutting_down: ShutdownFlag


@dataclass(frozen=True, kw_only=True)
class CurrentRun:
    """One claim, its lease and its folder."""

    workplace: Workplace
    claim: Claim
    lease: Lease
    run_dir: RunDir
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def settings(self) -> Settings:
        return self.workplace.settings

    @property
    def artifacts(self) -> ArtifactStore:
        return self.workplace.artifacts

    @property
    def artifact_prefix(self) -> str:
        """Where this run's log and checkpoints go."""
        return run_prefix(self.claim.job_id, self.claim.fence)

    def stop_reason(self) -> StopReason | None:
        """Why the run should not go on; None while it should."""
        if self.lease.is_lost:
            return "lost"
        if self.lease.wish is not None:
            return self.lease.wish
        if self.workplace.shutting_down.is_set():
            return "shutdown"
        max_seconds = self.settings.max_run_seconds
        is_over = max_seconds is not None and time.monotonic() - self.begun_at > max_seconds
        return "deadline" if is_over else None

    def raise_if_stopped(self) -> None:
        """Raises `RunStopped` when the run should not go on."""
        reason = self.stop_reason()
        if reason is not None:
            raise RunStopped(reason)

    def write(self, change: Callable[[Session], Written]) -> Written:
        """The result of a fenced change in a transaction of its own; tried again while the database is away.

        Raises `LeaseLost` when the row says so or the lease lapses first.
        """
        while True:
            if self.lease.is_lost:
                raise LeaseLost(f"The lease of {self.claim.job_id} is gone.")
            try:
                with transaction(self.workplace.engine) as session:
                    return change(session)
            except AWAY_ERRORS as error:
                log.warning("write_failed", job_id=self.claim.job_id, error=str(error))
            time.sleep(WRITE_AGAIN_SECONDS)

    def read_job(self) -> Job:
        """The job's row as it is now. Raises `LeaseLost`."""
        return self.write(lambda session: runs.claimed_job(session, self.claim))

    def try_write(self, change: Callable[[Session], object]) -> bool:
        """Whether a fenced change was written; False while the database is away."""
        try:
            with transaction(self.workplace.engine) as session:
                change(session)
        except AWAY_ERRORS as error:
            log.warning("write_failed", job_id=self.claim.job_id, error=str(error))
            return False
        return True

    def record_event(self, level: Level, message: str, data: dict[str, Any] | None = None) -> None:
        self.write(lambda session: runs.record_event(session, self.claim, level, message, data=data))

    def record_phase(self, phase: str) -> None:
        self.write(lambda session: runs.record_phase(session, self.claim, phase))
