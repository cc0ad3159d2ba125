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
from typing import NoReturn

import torch

from alignclip_core.checkpoint import sweep_parts
from alignclip_core.errors import AlignClipError, OutOfMemory, TrainingStopped
from alignclip_core.gradients import is_out_of_memory
from alignclip_core.parent_watch import PARENT_VARIABLE, die_with_parent, watch_heartbeat
from alignclip_core.rank_processes import RankPlace, RankProcesses
from alignclip_core.ranks import Ranks, join_ranks
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir, TrainerError
from alignclip_core.training_run import TrainingRun

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

log = logging.getLogger(__package__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run directory; returns the exit code of run_dir.py."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    place = RankPlace.from_environment(os.environ)
    if options.supervised:
        parent_pid = os.environ.get(PARENT_VARIABLE)
        die_with_parent(int(parent_pid) if parent_pid else None)
        if place is None:  # another rank dies with the first
            watch_heartbeat(sys.stdin.fileno())
    elif place is not None and PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run_dir = RunDir(options.run_dir.absolute())
    if run_dir.read_manifest() is not None:
        return EXIT_DONE
    others = None
    if place is None and options.processes > 1:
        others = RankProcesses(arguments, options.processes, lambda *lost: _end_at_loss(run_dir, *lost))
        place = others.first
    _set_threads(options.threads, 1 if place is None else place.num_ranks)
    try:
        _train_as_rank(run_dir, place, models_dir=options.models_dir, stop=stop, is_supervised=options.supervised)
    except TrainingStopped as stopped:
        log.info(stopped.message)
        return EXIT_STOPPED
    except Exception as error:
        log.exception("The trainer failed.")
        if others is not None:
            others.end()  # if one of them was lost, it says why
        _write_error(run_dir, error, is_rank=place is not None)
        return EXIT_FAILED
    finally:
        if others is not None:
            others.end()
    return EXIT_DONE


def train(
    run_dir: RunDir,
    *,
    models_dir: Path,
    stop: threading.Event,
    is_supervised: bool = False,
    ranks: Ranks = Ranks(),  # noqa: B008  (immutable)
) -> None:
    """Fine-tune as the run directory says, from its newest checkpoint on, until `model/` is there.

    Raises `TrainingStopped` after `stop` was set, and the other errors of errors.py.
    """
    if run_dir.read_manifest() is not None:
        return
    if ranks.is_first:
        _tidy(run_dir)
    ranks.wait()
    run = TrainingRun(run_dir, models_dir=models_dir, stop=stop, is_supervised=is_supervised, ranks=ranks)
    run.resume()
    run.evaluate_zero_shot()
    run.fit()
    run.finish()


def _train_as_rank(
    run_dir: RunDir, place: RankPlace | None, *, models_dir: Path, stop: threading.Event, is_supervised: bool
) -> None:
    if place is None:
        train(run_dir, models_dir=models_dir, stop=stop, is_supervised=is_supervised)
        return
    ranks = join_ranks(place.rank, place.num_ranks, place.local_rank, place.meeting_point)
    train(run_dir, models_dir=models_dir, stop=stop, is_supervised=is_supervised, ranks=ranks)


def _set_threads(given: int | None, num_ranks: int) -> None:
    """Ranks that compute on the CPU share its cores."""
    if given or (num_ranks > 1 and not torch.cuda.is_available()):
        torch.set_num_threads(given or max(1, torch.get_num_threads() // num_ranks))


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


def _end_at_loss(run_dir: RunDir, rank: int, exit_code: int) -> None:
    """Another rank is gone, and this one waits for it in the middle of a step."""
    if run_dir.read_error() is None:
        message = f"Rank {rank} ended with exit code {exit_code} and left no word; trainer.log may say more."
        run_dir.write_error(TrainerError(code="internal_error", message=message))
    os._exit(EXIT_FAILED)


def _write_error(run_dir: RunDir, error: Exception, *, is_rank: bool = False) -> None:
    """A rank whose connection broke knows less than the one that broke it, and lets its word stand."""
    described = describe_error(error)
    if is_rank and described.code == "internal_error" and run_dir.read_error() is not None:
        return
    try:
        run_dir.write_error(described)
    except OSError as failure:  # a full disk, most likely the very error
        log.error("error.json cannot be written (%s): %s", failure, described.message)


def describe_error(error: Exception) -> TrainerError:
    """The content of error.json for what ended a trainer."""
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alignclip_core.train", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="holds inputs/config.json and inputs/dataset/")
    parser.add_argument(
        "--models-dir", type=Path, default=Path("~/.alignclip/models").expanduser(), help="folder of base models"
    )
    parser.add_argument("--supervised", action="store_true", help="end when stdin ends or is silent for 15 s")
    parser.add_argument("--threads", type=int, help="CPU threads of a process")
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that share each batch, one for each GPU; not with torchrun"
    )
    return parser


def _end_process(exit_code: int) -> NoReturn:
    """End with that code also as a rank: gloo's threads now and then abort a process that tears itself down."""
    if torch.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    _end_process(main())
