"""The other ranks of a run as processes of the first one. Loads no torch.

torchrun works too, but it answers every end of a rank with its own exit code 1; started from here, the first rank is
the process that whoever watches knows: its signals, its heartbeat and its exit code are those of the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignclip_core.parent_watch import PARENT_VARIABLE
from alignclip_core.run_dir import EXIT_DONE, EXIT_STOPPED

MEETING_POINT_VARIABLE = "ALIGNCLIP_MEETING_POINT"
WATCH_SECONDS = 0.2
GRACE_SECONDS = 3.0  # for a rank to end by itself; less than a supervisor waits before it kills


@dataclass(frozen=True)
class RankPlace:
    """Which rank this process is, and where all of them meet."""

    rank: int
    num_ranks: int
    local_rank: int
    meeting_point: str  # torch's `init_method`

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> RankPlace | None:
        """The place that torchrun or `RankProcesses` gave this process; None when it is alone."""
        num_ranks = int(environment.get("WORLD_SIZE", "1"))
        if num_ranks == 1:
            return None
        local_rank = int(environment["LOCAL_RANK"])
        return cls(int(environment["RANK"]), num_ranks, local_rank, environment.get(MEETING_POINT_VARIABLE, "env://"))

    def to_environment(self) -> dict[str, str]:
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.num_ranks),
            MEETING_POINT_VARIABLE: self.meeting_point,
        }


class RankProcesses:
    """Ranks 1 to `num_ranks` - 1; none outlives `end()` or this process.

    Start them from the main thread: the kernel's parent-death signal follows the thread that forked.
    """

    def __init__(self, arguments: Sequence[str], num_ranks: int, on_loss: Callable[[int, int], None]) -> None:
        """`on_loss(rank, exit code)` is called in a thread when a rank failed and this process goes on regardless."""
        self._folder = Path(tempfile.mkdtemp(prefix="alignclip-ranks-"))
        meeting_point = (self._folder / "meeting").as_uri()
        self.first = RankPlace(0, num_ranks, 0, meeting_point)
        self._on_loss = on_loss
        self._ended = threading.Event()
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "alignclip_core.train", *arguments],
                env=os.environ
                | RankPlace(rank, num_ranks, rank, meeting_point).to_environment()
                | {PARENT_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
            )
            for rank in range(1, num_ranks)
        ]
        self._watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self._watcher.start()

    def end(self) -> None:
        """Wait a little for each to end by itself, then kill it: the first rank alone writes, so nothing is lost."""
        self._ended.set()
        self._watcher.join()
        for process in self._processes:
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_SECONDS):
            for rank, process in enumerate(self._processes, 1):
                # A call that waits for the lost rank raises in gloo; in NCCL it may wait for ever.
                if process.poll() not in (None, EXIT_DONE, EXIT_STOPPED) and not self._ended.wait(GRACE_SECONDS):
                    self._on_loss(rank, process.returncode)
                    return
