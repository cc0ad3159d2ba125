"""What every process that works on a run directory does around its work: whom it obeys, how it fails, how it ends."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

from alignclip_core.checkpoint import sweep_parts
from alignclip_core.errors import AlignClipError, OutOfMemory
from alignclip_core.gradients import is_out_of_memory
from alignclip_core.parent_watch import PARENT_VARIABLE, die_with_parent, watch_heartbeat
from alignclip_core.run_dir import RunDir, TrainerError

log = logging.getLogger(__package__)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The run directory, and what whoever starts the process may say of it."""
    parser.add_argument("run_dir", type=Path, help="holds inputs/, as docs/run_directory.md says")
    parser.add_argument(
        "--models-dir", type=Path, default=Path("~/.alignclip/models").expanduser(), help="folder of base models"
    )
    parser.add_argument("--supervised", action="store_true", help="end when stdin ends or is silent for 15 s")
    parser.add_argument("--threads", type=int, help="CPU threads of a process")


def obey_supervisor(*, watches_heartbeat: bool = True) -> None:
    """End with the parent, and when its heartbeat on stdin stops."""
    parent_pid = os.environ.get(PARENT_VARIABLE)
    die_with_parent(int(parent_pid) if parent_pid else None)
    if watches_heartbeat:
        watch_heartbeat(sys.stdin.fileno())


def stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT, which from now on end nothing by themselves."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def tidy(run_dir: RunDir) -> None:
    """Remove what an earlier process, killed or failed, left in the way."""
    run_dir.error_file.unlink(missing_ok=True)
    run_dir.drop_partial_record()
    for folder in (run_dir.path, run_dir.inputs, run_dir.checkpoints):
        sweep_parts(folder)


def describe_error(error: Exception) -> TrainerError:
    """The content of error.json for what ended a process."""
    trace = "".join(traceback.format_exception(error))
    if is_out_of_memory(error):
        error = OutOfMemory(
            f"Memory ran out on the device ({error}). A smaller global_batch_size would do.",
            param="global_batch_size",
        )
    if isinstance(error, AlignClipError):
        return TrainerError(code=error.code, message=error.message, param=error.param, traceback=trace)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TrainerError(
            code="disk_full",
            message=f"The disk takes no more ({error}); free some space, then run the same command: it goes on from "
            "the last checkpoint.",
            traceback=trace,
        )
    return TrainerError(code="internal_error", message=f"{type(error).__name__}: {error}", traceback=trace)


def write_error(run_dir: RunDir, described: TrainerError) -> None:
    """Leave the error behind, if the disk takes it."""
    try:
        run_dir.write_error(described)
    except OSError as failure:  # a full disk, most likely the very error
        log.error("error.json cannot be written (%s): %s", failure, described.message)


def end_process(exit_code: int) -> NoReturn:
    """End with that code at once; all that must last is on the disk.

    To take torch and its companions down in order costs a second of CPU time, and as a rank gloo's threads now and then
    abort a process that does so.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the log's disk is full, or its reader is gone
            stream.flush()
    os._exit(exit_code)
