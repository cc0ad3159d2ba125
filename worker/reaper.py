"""python -m worker.reaper: returns stale jobs to the queue, wakes workers while jobs wait.

Beside that it sends webhooks and deletes what is too old. Several may run.
"""

from __future__ import annotations

import signal
import sys
import threading
import time

import structlog
from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.database import create_engine, schema_state, transaction
from alignclip_store.logs import configure_logging
from alignclip_store.queue import create_queue, wake
from alignclip_store.runs import jobs_to_wake, reap
from alignclip_store.settings import Settings
from worker.deliveries import deliver_forever
from worker.housekeeping import keep_house_forever

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 30.0  # between two tries while the database is away


class Reaper:
    """Acts on what the rows say, and keeps nothing between two rounds but how long to wait."""

    def __init__(self, settings: Settings, engine: Engine, queue: Celery) -> None:
        self._settings = settings
        self._engine = engine
        self._queue = queue
        self._num_failures = 0
        self._is_schema_current = False

    def run_round(self) -> float:
        """Reap and wake once; returns how many seconds to wait. A database that is away only makes that longer."""
        if self._try_round():
            self._num_failures = 0
        elif self._pause_seconds() < MAX_PAUSE_SECONDS:
            self._num_failures += 1
        return self._pause_seconds()

    def _pause_seconds(self) -> float:
        return min(MAX_PAUSE_SECONDS, self._settings.reap_seconds * 2.0**self._num_failures)

    def _try_round(self) -> bool:
        try:
            if not self._has_current_schema():
                return False
            self._reap()
            self._wake()
        except (SQLAlchemyError, OSError) as error:
            log.warning("reaper_round_failed", error=str(error))
            return False
        return True

    def _has_current_schema(self) -> bool:
        """Whether the migrations have run; once they have, they are not looked at again."""
        if not self._is_schema_current:
            state = schema_state(self._engine)
            self._is_schema_current = state == "current"
            if not self._is_schema_current:
                log.warning("schema_not_current", state=state)
        return self._is_schema_current

    def _reap(self) -> None:
        with transaction(self._engine) as session:
            job_ids = reap(session, self._settings)
        for job_id in job_ids:
            log.warning("stale_job_reaped", job_id=job_id)

    def _wake(self) -> None:
        """A wake-up that the broker does not take is sent again `wake_again_seconds` later."""
        with transaction(self._engine) as session:
            job_ids = jobs_to_wake(session, self._settings)
        for job_id in job_ids:
            is_sent = wake(self._queue, job_id)
            log.info("workers_woken" if is_sent else "broker_away", job_id=job_id)
            if not is_sent:
                return


def main() -> None:
    """Run until SIGTERM or SIGINT, which end it at once: every round is one transaction after the other."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    configure_logging()
    settings = Settings()
    engine = create_engine(settings)
    reaper = Reaper(settings, engine, create_queue(settings))
    log.info("reaper_started", reap_seconds=settings.reap_seconds)
    # Receivers and stores may be slow and must not hold up the rounds. The threads end with the process.
    for name, work in (("deliveries", deliver_forever), ("house", keep_house_forever)):
        threading.Thread(target=work, args=(engine, settings), name=name, daemon=True).start()
    while True:
        time.sleep(reaper.run_round())


if __name__ == "__main__":
    main()
