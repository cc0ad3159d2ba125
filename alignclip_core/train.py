"""The trainer process: python -m alignclip_core.train RUN_DIR. docs/run_directory.md is its contract.

It goes on from the newest checkpoint of the run directory, writes `model/` last, and does nothing when that is there.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from alignclip_core.checkpoint import sweep_parts
from alignclip_core.errors import AlignClipError, OutOfMemory, TrainingStopped
from alignclip_core.parent_watch import PARENT_VARIABLE, die_with_parent, watch_heartbeat
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir, TrainerError
from alignclip_core.training_run import TrainingRun

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

log = logging.getLogger(__package__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run directory; returns the exit code of run_dir.py."""
    options = _parser().parse_args(arguments)
    if options.supervised:
        parent_pid = os.environ.get(PARENT_VARIABLE)
        die_with_parent(int(parent_pid) if parent_pid else None)
        watch_heartbeat(sys.stdin.fileno())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    run_dir = RunDir(options.run_dir.absolute())
    try:
        train(run_dir, models_dir=options.models_dir, stop=stop, is_supervised=options.supervised)
    except TrainingStopped as stopped:
        log.info(stopped.message)
        return EXIT_STOPPED
    except Exception as error:
        log.exception("The trainer failed.")
        _write_error(run_dir, error)
        return EXIT_FAILED
    return EXIT_DONE


def train(run_dir: RunDir, *, models_dir: Path, stop: threading.Event, is_supervised: bool = False) -> None:
    """Fine-tune as the run directory says, from its newest checkpoint on, until `model/` is there.

    Raises `TrainingStopped` after `stop` was set, and the other errors of errors.py.
    """
    if run_dir.read_manifest() is not None:
        return
    _tidy(run_dir)
    run = TrainingRun(run_dir, models_dir=models_dir, stop=stop, is_supervised=is_supervised)
    run.resume()
    run.evaluate_zero_shot()
    run.fit()
    run.finish()


def _keep_freed_memory() -> None:
    """Have glibc use large blocks again instead of giving them back to the kernel.

    Each step frees and asks for the same tensors; mapping their pages anew took a third of a CPU step's time (starter,
    batch 36: 2.0 s against 1.4 s of one core, for 13 % more memory).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _tidy(run_dir: RunDir) -> None:
    """Remove what an earlier trainer, killed or failed, left in the way."""
    run_dir.error_file.unlink(missing_ok=True)
    run_dir.drop_partial_record()
    for folder in (run_dir.path, run_dir.inputs, run_dir.checkpoints):
        sweep_parts(folder)


def _write_error(run_dir: RunDir, error: Exception) -> None:
    described = describe_error(error)
    try:
        run_dir.write_error(described)
    except OSError as failure:  # a full disk, most likely the very error
        log.error("error.json cannot be written (%s): %s", failure, described.message)


def describe_error(error: Exception) -> TrainerError:
    """The content of error.json for what ended a trainer."""
    trace = "".join(traceback.format_exception(error))
    if _is_out_of_memory(error):
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


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alignclip_core.train", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="holds inputs/config.json and inputs/dataset/")
    parser.add_argument(
        "--models-dir", type=Path, default=Path("~/.alignclip/models").expanduser(), help="folder of base models"
    )
    parser.add_argument("--supervised", action="store_true", help="end when stdin ends or is silent for 15 s")
    parser.add_argument("--threads", type=int, help="CPU threads")
    return parser


if __name__ == "__main__":
    sys.exit(main())
