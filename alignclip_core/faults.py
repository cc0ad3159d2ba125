"""Places where the tests hold a process, to see what becomes of its job when something dies there. Loads no torch.

`ALIGNCLIP_FAULTS` names a folder; unset, as anywhere but in the tests, nothing happens. A file `<point>` in it arms a
point. The process that comes there first, or as the n-th if the file says n, renames the file to `<point>.<its pid>`
and waits until that is gone: meanwhile the tests kill it, stop it or take away what it needs. A file that says
`disk_full` raises ENOSPC instead.

    after_claim              the job is claimed, nothing else is done                        (worker)
    mid_step                 gradients are there, the weights have not moved                 (trainer)
                             or: a batch of images has its answers, others have none         (classifier)
    mid_checkpoint_write     weights are written aside, not yet synced or renamed            (trainer)
    after_rename_before_row  a checkpoint is in the artifact store, no row names it          (worker)
    after_training           the model is complete in the run directory                      (worker)
    before_finish_commit     the model is in the artifact store, the job's row has no end    (worker)
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Literal

FAULTS_VARIABLE = "ALIGNCLIP_FAULTS"
DISK_FULL = "disk_full"
LOOK_SECONDS = 0.02

FaultPoint = Literal[
    "after_claim", "mid_step", "mid_checkpoint_write", "after_rename_before_row", "after_training",
    "before_finish_commit",
]  # fmt: skip


def reach(point: FaultPoint) -> None:
    """Wait here if the tests armed the point; raises `OSError` where they want its disk to be full."""
    folder = os.environ.get(FAULTS_VARIABLE)
    if folder is None:
        return
    armed, taken = Path(folder) / point, Path(folder) / f".{point}.{os.getpid()}"
    try:
        armed.rename(taken)  # of those who come at once one succeeds
    except FileNotFoundError:
        return
    order = taken.read_text()
    if order.isdigit() and int(order) > 1:
        taken.write_text(str(int(order) - 1))
        taken.rename(armed)
        return
    if order == DISK_FULL:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
    held = taken.rename(Path(folder) / f"{point}.{os.getpid()}")
    while held.exists():
        time.sleep(LOOK_SECONDS)
