"""The word from a worker's main process to its pool children that it is shutting down."""

from __future__ import annotations

import mmap


class ShutdownFlag:
    """One byte in memory that processes forked from this one share; set once, read often.

    Celery announces a shutdown in its main process alone. A `multiprocessing.Event` would carry it too, but behind a
    lock: a child killed while it held that lock would block the main process in its signal handler for ever.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._shared[0] = 1

    def is_set(self) -> bool:
        return self._shared[0] == 1
