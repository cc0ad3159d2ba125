"""Places where a worker dies when its environment says so. For tests of what survives a death; unset, nothing happens.

`ALIGNCLIP_FAULT=<point>` kills the whole worker, as a machine does that loses its power, when it comes to that point:

    after_claim           the job is claimed, nothing else is done
    after_training        the trainer has finished, its model is complete in the run directory
    before_finish_commit  the model is in the artifact store too; the job's row does not know it yet
"""

from __future__ import annotations

import os
import signal
from typing import Literal

FAULT_VARIABLE = "ALIGNCLIP_FAULT"

FaultPoint = Literal["after_claim", "after_training", "before_finish_commit"]


def die_if_told(point: FaultPoint) -> None:
    """Kill this process group, which is the worker and its pool, when the environment names the point."""
    if os.environ.get(FAULT_VARIABLE) == point:
        os.killpg(0, signal.SIGKILL)
