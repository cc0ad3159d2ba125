"""Checkpoints and the log on their way to the artifact store while the trainer works on."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from alignclip_core import faults
from alignclip_store import runs
from alignclip_store.checkpoints import all_checkpoints, superseded_checkpoints
from alignclip_store.errors import LeaseLost
from worker.current_run import CurrentRun
from worker.storage import folder_bytes

log = structlog.get_logger()

LOG_SECONDS = 5.0  # between two copies of a growing log
MAX_LIVE_LOG_BYTES = 4 * 2**20  # a longer log is stored at the end of the run alone
WAIT_SECONDS = 0.5  # between two looks at the lease while uploads finish


class Uploads:
    """Uploads of one run, one after the other in a thread: a slow store never holds up a cancel.

    A checkpoint that cannot be stored is no reason to end a run; its event says so and the next one is tried.
    """

    def __init__(self, run: CurrentRun, stored_step: int | None = None) -> None:
        self._run = run
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"uploads-{run.claim.job_id}")
        self._pending: list[Future[None]] = []
        # Steps of checkpoints that are stored or on their way; the one that the run resumed from came out of the store.
        self._steps = set() if stored_step is None else {stored_step}
        self._log_bytes = 0  # of the log that the store has
        self._log_put_at = -LOG_SECONDS  # the first copy is taken at once

    def put_checkpoint(self, step: int, folder: Path, metrics: dict[str, Any]) -> None:
        """Store a complete checkpoint; nothing when it is stored or on its way already."""
        if step not in self._steps:
            self._steps.add(step)
            self._start(self._store_checkpoint, step, folder, metrics)

    def put_log_when_due(self) -> None:
        """Store the log as it is now, when it grew and the last copy is old enough."""
        num_bytes = _size(self._run.run_dir.log_file)
        is_due = time.monotonic() - self._log_put_at > LOG_SECONDS and not any(
            not task.done() for task in self._pending
        )
        if is_due and self._log_bytes < num_bytes <= MAX_LIVE_LOG_BYTES:
            self._start(self._store_log)

    def finish(self) -> None:
        """Store the log once more and wait for all uploads; not any longer than the lease holds."""
        self._start(self._store_log)
        pending = set(self._pending)
        while pending and not self._run.lease.is_lost:
            pending = wait(pending, timeout=WAIT_SECONDS).not_done
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _start(self, task: Any, *arguments: Any) -> None:
        self._pending = [pending for pending in self._pending if not pending.done()]
        self._pending.append(self._thread.submit(task, *arguments))

    def _store_checkpoint(self, step: int, folder: Path, metrics: dict[str, Any]) -> None:
        try:
            uri = self._run.artifacts.put_folder(folder, f"{self._run.artifact_prefix}/checkpoints/{folder.name}")
            num_bytes = folder_bytes(folder)
            faults.reach("after_rename_before_row")
            dropped = self._run.write(lambda session: self._record_checkpoint(session, step, uri, metrics, num_bytes))
        except LeaseLost:
            return
        except Exception as error:
            self._steps.discard(step)
            if folder.exists():  # else the trainer removed it for a newer one, which is on its way
                log.warning("checkpoint_not_stored", job_id=self._run.claim.job_id, step=step, error=repr(error))
                self._warn(f"The checkpoint of step {step} could not be stored ({error}); the run goes on.")
            return
        self._delete(dropped)

    def _delete(self, uris: list[str]) -> None:
        """Remove files that no row names any more; what cannot be removed only takes space."""
        for uri in uris:
            try:
                self._run.artifacts.delete(uri)
            except Exception as error:
                log.warning("checkpoint_not_deleted", uri=uri, error=repr(error))

    def _record_checkpoint(
        self, session: Session, step: int, uri: str, metrics: dict[str, Any], num_bytes: int
    ) -> list[str]:
        """Record the checkpoint, forget what it supersedes; returns where the files of the forgotten are."""
        claim = self._run.claim
        runs.record_checkpoint(session, claim, step=step, artifact_uri=uri, metrics=metrics, num_bytes=num_bytes)
        checkpoints = all_checkpoints(session, claim.job_id)
        dropped = superseded_checkpoints(checkpoints, self._run.settings.keep_checkpoints)
        uris = [checkpoint.artifact_uri for checkpoint in dropped]
        for checkpoint in dropped:
            runs.forget_checkpoint(session, claim, checkpoint.id)
        return uris

    def _store_log(self) -> None:
        log_file = self._run.run_dir.log_file
        num_bytes = _size(log_file)
        self._log_put_at = time.monotonic()
        if num_bytes == self._log_bytes:
            return
        try:
            uri = self._run.artifacts.put_file(log_file, f"{self._run.artifact_prefix}/trainer.log")
            if self._log_bytes == 0:
                self._run.write(lambda session: runs.record_log(session, self._run.claim, uri))
            self._log_bytes = num_bytes
        except LeaseLost:
            return
        except Exception as error:
            log.warning("log_not_stored", job_id=self._run.claim.job_id, error=repr(error))

    def _warn(self, message: str) -> None:
        try:
            self._run.record_event("warn", message)
        except LeaseLost:
            return


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
