"""Lease: a run's hold on its job, renewed in a thread from claim to finish."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.database import reading, transaction
from alignclip_store.errors import LeaseLost
from alignclip_store.runs import Claim, Wish, claimed_job, heartbeat, wish_of

log = structlog.get_logger()

LOOK_SECONDS = 1.0  # between two looks at the row, so that a cancel need not wait for the next renewal


def check_intervals(lease_seconds: float, heartbeat_seconds: float) -> None:
    """Raises `ValueError` when a lease would lapse, or count as lost, between two heartbeats."""
    if heartbeat_seconds * 2 > lease_seconds:
        raise ValueError(
            f"heartbeat_seconds is {heartbeat_seconds:g}; a lease of {lease_seconds:g} s needs one every "
            f"{lease_seconds / 2:g} s or more often."
        )


class Lease:
    """Renews a claim every `heartbeat_seconds` while its block runs, around staging and publishing too.

    A lease that cannot be renewed, because the row says so or because the database is away for too long, is lost: one
    heartbeat before it lapses, so that the trainer is dead when another worker may start.
    """

    def __init__(self, engine: Engine, claim: Claim, *, lease_seconds: float, heartbeat_seconds: float) -> None:
        check_intervals(lease_seconds, heartbeat_seconds)
        self._engine = engine
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._renewed_at = time.monotonic()
        self._lost = threading.Event()
        self._ended = threading.Event()
        self._wish: Wish | None = None
        self._thread = threading.Thread(target=self._renew_until_ended, name=f"lease-{claim.job_id}", daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Renew no more. The lease stands until it lapses."""
        self._ended.set()
        self._thread.join(timeout=self._lease_seconds)

    @property
    def is_lost(self) -> bool:
        """Whether another worker may have the job. Also true when the renewing thread hangs or was stalled itself."""
        return self._lost.is_set() or self._age_seconds() > self._lease_seconds - self._heartbeat_seconds

    @property
    def wish(self) -> Wish | None:
        """What the job's client wants of it, as of the last look."""
        return self._wish

    def _age_seconds(self) -> float:
        return time.monotonic() - self._renewed_at

    def _renew_until_ended(self) -> None:
        while not self._ended.wait(min(LOOK_SECONDS, self._heartbeat_seconds)):
            try:
                self._wish = self._renew() if self._age_seconds() >= self._heartbeat_seconds else self._look()
            except LeaseLost:
                self._lost.set()
                return
            except SQLAlchemyError as error:
                log.warning("lease_not_renewed", job_id=self._claim.job_id, error=str(error))

    def _renew(self) -> Wish | None:
        started_at = time.monotonic()
        with transaction(self._engine) as session:
            wish = heartbeat(session, self._claim, self._lease_seconds)
        self._renewed_at = started_at
        return wish

    def _look(self) -> Wish | None:
        with reading(self._engine) as session:
            return wish_of(claimed_job(session, self._claim))
