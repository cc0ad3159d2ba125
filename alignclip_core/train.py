"""The trainer process: python -m alignclip_core.train RUN_DIR. docs/run_directory.md is its contract.

It goes on from the newest checkpoint of the run directory, writes `model/` last, and does nothing when that is there.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from alignclip_core.errors import TrainingStopped
from alignclip_core.parent_watch import PARENT_VARIABLE, die_with_parent
from alignclip_core.rank_processes import RankPlace, RankProcesses
from alignclip_core.ranks import Ranks, join_ranks
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir, TrainerError
from alignclip_core.run_process import (
    add_options,
    describe_error,
    end_process,
    obey_supervisor,
    stop_on_signals,
    tidy,
    write_error,
)
from alignclip_core.training_run import TrainingRun

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h

log = logging.getLogger(__package__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run directory; returns the exit code of run_dir.py."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    place = RankPlace.from_environment(os.environ)
    if options.supervised:
        obey_supervisor(watches_heartbeat=place is None)  # another rank dies with the first
    elif place is not None and PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    stop = stop_on_signals()
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
        tidy(run_dir)
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


def _end_at_loss(run_dir: RunDir, rank: int, exit_code: int) -> None:
    """Another rank is gone, and this one waits for it in the middle of a step."""
    if run_dir.read_error() is None:
        message = f"Rank {rank} ended with exit code {exit_code} and left no word; trainer.log may say more."
        run_dir.write_error(TrainerError(code="internal_error", message=message))
    os._exit(EXIT_FAILED)


def _write_error(run_dir: RunDir, error: Exception, *, is_rank: bool = False) -> None:
    """A rank whose connection broke knows less than the one that broke it, and lets its word stand."""
    described = describe_error(error)
    if not (is_rank and described.code == "internal_error" and run_dir.read_error() is not None):
        write_error(run_dir, described)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m alignclip_core.train", description=__doc__)
    add_options(parser)
    parser.add_argument(
        "--processes", type=int, default=1, help="processes that share each batch, one for each GPU; not with torchrun"
    )
    return parser


if __name__ == "__main__":
    end_process(main())
