"""Watches a trainer: passes on what it says, acts on cancel, shutdown and a lost lease, and judges how it ended."""

from __future__ import annotations

import shutil
import time

import structlog

from alignclip_core.run_dir import EXIT_DONE, EXIT_STOPPED, RunDir
from alignclip_store import runs
from alignclip_store.errors import LeaseLost
from worker.current_run import CurrentRun
from worker.launcher import Trainer
from worker.outcome import DISK_FULL, STOPPED, Outcome, StopReason
from worker.reports import Reports
from worker.uploads import Uploads

log = structlog.get_logger()

TICK_SECONDS = 0.2  # between two looks at the trainer
PASS_ON_SECONDS = 1.0  # between two readings of metrics.jsonl
REAP_SECONDS = 10.0  # a killed process that is not gone by then hangs in the kernel
FULL_DISK_BYTES = 2**20  # with less free space than this, a trainer's silent end is blamed on the disk
LOG_TAIL_LINES = 5


class Supervisor:
    """One trainer's watcher."""

    def __init__(self, run: CurrentRun, trainer: Trainer, uploads: Uploads) -> None:
        self._run = run
        self._trainer = trainer
        self._uploads = uploads
        self._reports = Reports(run, uploads)
        self._pass_on_at = 0.0
        self._kill_at: float | None = None  # set once the trainer was asked to stop

    def supervise(self) -> Outcome:
        """Wait for the trainer's end and say what it means; its process group is gone when this returns or raises."""
        try:
            exit_code = self._watch()
            self._reports.pass_on_rest()
        except LeaseLost:
            return STOPPED["lost"]
        finally:
            self._end_trainer()
        log.info("trainer_ended", exit_code=exit_code)
        return judge(exit_code, self._run.run_dir, self._reason(exit_code))

    def _watch(self) -> int:
        while (exit_code := self._trainer.exit_code()) is None:
            self._act_on_stop()
            if time.monotonic() >= self._pass_on_at:
                self._reports.pass_on()
                self._uploads.put_log_when_due()
                self._pass_on_at = time.monotonic() + PASS_ON_SECONDS
            time.sleep(TICK_SECONDS)
        return exit_code

    def _act_on_stop(self) -> None:
        reason = self._run.stop_reason()
        if reason == "lost":
            raise LeaseLost(f"The lease of {self._run.claim.job_id} is gone.")
        if reason is not None and self._kill_at is None:
            log.info("trainer_asked_to_stop", reason=reason, pid=self._trainer.pid)
            self._kill_at = time.monotonic() + self._run.settings.stop_seconds
            self._trainer.request_stop()
            phase = {"cancelled": "cancelling", "paused": "pausing"}.get(reason, "stopping")
            self._run.try_write(lambda session: runs.record_phase(session, self._run.claim, phase))
        elif self._kill_at is not None and time.monotonic() > self._kill_at:
            self._trainer.kill()

    def _reason(self, exit_code: int) -> StopReason | None:
        """Why the trainer ended early; None when it ended by itself, whatever was wished in its last moment."""
        was_stopped = self._kill_at is not None or exit_code < 0 or exit_code == EXIT_STOPPED
        reason = self._run.stop_reason()
        return reason if was_stopped or reason == "lost" else None

    def _end_trainer(self) -> None:
        if self._trainer.exit_code() is not None:
            return
        self._trainer.kill()
        deadline = time.monotonic() + REAP_SECONDS
        while self._trainer.exit_code() is None and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS / 10)


def judge(exit_code: int, run_dir: RunDir, reason: StopReason | None) -> Outcome:
    """What a trainer's end means for its job; `reason` is why it was stopped, if it was."""
    if reason in ("lost", "cancelled"):
        return STOPPED[reason]
    if exit_code == EXIT_DONE and run_dir.is_complete:
        return Outcome(kind="succeeded")
    error = run_dir.read_error()
    if error is not None and error.code == DISK_FULL:  # another machine may have the space
        return Outcome.given_up(error.code, error.message)
    if error is not None:
        return Outcome.failed(error.code, error.message, error.param)
    if reason in ("paused", "deadline"):
        return STOPPED[reason]
    if reason == "shutdown" or exit_code == EXIT_STOPPED:
        return STOPPED["shutdown"]
    if shutil.disk_usage(run_dir.path).free < FULL_DISK_BYTES:
        return Outcome.given_up(DISK_FULL, "The worker's disk is full: free some space there.")
    if exit_code < 0:
        return Outcome.given_up(
            "trainer_killed",
            f"The trainer was killed by signal {-exit_code} and could not say why; most often memory ran out: "
            "give the worker more memory, or train with a smaller global_batch_size.",
        )
    return Outcome.given_up(
        "trainer_crashed",
        f"The trainer ended with exit code {exit_code}, without a result and without saying why. Its last words: "
        f"{_log_tail(run_dir)} (the whole log is at the job's /logs).",
    )


def _log_tail(run_dir: RunDir) -> str:
    if not run_dir.log_file.is_file():
        return "none."
    lines = run_dir.log_file.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-LOG_TAIL_LINES:])[-1000:] or "none."
