"""The process of a classification: python -m alignclip_core.classify_dataset RUN_DIR.

docs/run_directory.md is its contract. It goes on from the newest checkpoint of the run directory, writes `result.json`
last, and does nothing when that is there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch

from alignclip_core.dataset_classification import DatasetClassification
from alignclip_core.errors import OutOfMemory, TrainingStopped
from alignclip_core.gradients import is_out_of_memory
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir
from alignclip_core.run_process import (
    add_options,
    describe_error,
    end_process,
    obey_supervisor,
    stop_on_signals,
    tidy,
    write_error,
)

log = logging.getLogger(__package__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Classify the dataset of a run directory; returns the exit code of run_dir.py."""
    parser = argparse.ArgumentParser(prog="python -m alignclip_core.classify_dataset", description=__doc__)
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.supervised:
        obey_supervisor()
    stop = stop_on_signals()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    run_dir = RunDir(options.run_dir.absolute())
    if run_dir.read_result() is not None:
        return EXIT_DONE
    tidy(run_dir)
    try:
        DatasetClassification(run_dir, models_dir=options.models_dir, stop=stop).run()
    except TrainingStopped as stopped:
        log.info(stopped.message)
        return EXIT_STOPPED
    except Exception as error:
        log.exception("The classification failed.")
        write_error(run_dir, describe_error(_with_advice(error)))
        return EXIT_FAILED
    return EXIT_DONE


def _with_advice(error: Exception) -> Exception:
    """A batch is as small as it gets, so that only another device helps."""
    if not is_out_of_memory(error):
        return error
    return OutOfMemory(f"Memory ran out on the device ({error}); classify on a worker that has more.")


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
