"""Ends this process when the one that supervises it dies or falls silent. Loads no torch."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

from alignclip_core.run_dir import EXIT_FAILED

SILENCE_SECONDS = 15.0  # less than a lease: a supervisor that is stopped must not have a trainer beside the next one's
PARENT_VARIABLE = "ALIGNCLIP_PARENT_PID"  # set by the supervisor to its own number
PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int | None) -> None:
    """Have the kernel kill this process when its parent dies (Linux); end it now if `parent_pid` is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(EXIT_FAILED)


def watch_heartbeat(descriptor: int, silence_seconds: float = SILENCE_SECONDS) -> None:
    """End this process at once at the pipe's end, or when no byte has come through it for so long."""
    threading.Thread(target=_watch, args=(descriptor, silence_seconds), name="heartbeat", daemon=True).start()


def _watch(descriptor: int, silence_seconds: float) -> None:
    while True:
        readable, _, _ = select.select([descriptor], [], [], silence_seconds)
        if not readable or not os.read(descriptor, 4096):
            os._exit(EXIT_FAILED)  # not sys.exit: the main thread may be deep in a step
