"""A worker's signs of life: its process says every few seconds that it runs, and at each wake-up that it took one."""

from __future__ import annotations

import threading

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.claims import WorkerIdentity
from alignclip_store.database import transaction
from alignclip_store.workers import BEAT_SECONDS, forget_worker, record_life
from worker.gpus import read_gpus

log = structlog.get_logger()


class Life:
    """Tells the register of workers about one process. A database that is away only keeps it from telling."""

    def __init__(self, engine: Engine, identity: WorkerIdentity) -> None:
        self._engine = engine
        self._identity = identity
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="life", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Stop telling, and strike the worker off the register."""
        self._ended.set()
        self._thread.join(timeout=BEAT_SECONDS)
        try:
            with transaction(self._engine) as session:
                forget_worker(session, self._identity.name)
        except SQLAlchemyError as error:
            log.warning("worker_not_struck_off", error=str(error))

    def tell(self, *, answered: bool = False) -> None:
        """The process runs; `answered`: it took a wake-up just now."""
        gpus = [gpu.to_json() for gpu in read_gpus()]
        try:
            with transaction(self._engine) as session:
                record_life(session, self._identity, gpus=gpus, answered=answered)
        except SQLAlchemyError as error:
            log.warning("sign_of_life_not_written", error=str(error))

    def _beat(self) -> None:
        while True:
            self.tell()
            if self._ended.wait(BEAT_SECONDS):
                return
