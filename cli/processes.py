"""Child processes: each in a session of its own with its own log, restarted when it dies, ended in time.

Three things end a child: `end_all` (SIGTERM to its main process alone, which is Celery's and uvicorn's polite way; then
SIGKILL to its whole group), its own death (what is left of its group is killed), and the death of this process
(cli/die_with_parent.py). A session of its own keeps a terminal's Ctrl-C from reaching a child before we say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cli import die_with_parent

POLL_SECONDS = 0.05
FIRST_RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
STEADY_SECONDS = 60.0  # a child that ran this long is restarted as if it had never died


@dataclass
class Child:
    """One child process, and how it is started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_file: Path
    started_at: float = 0.0  # monotonic seconds
    num_early_deaths: int = 0
    restart_at: float | None = None  # monotonic seconds; set between a death and the restart
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, from the main thread; its output is appended to the log."""
        wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *self.command],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    def exit_code(self) -> int | None:
        """The exit code, -N for an end by signal N; None while it runs. Its whole group is gone by then."""
        if self._process is None:
            return 0
        if self._process.returncode is None and self._has_ended():
            self.kill()  # while the dead leader is unreaped, its number cannot name another group
            self._process.wait()
        return self._process.returncode

    def request_stop(self) -> None:
        """SIGTERM to the main process; a pool child that got it, too, would die before its checkpoint."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and every process of its group, at once."""
        # macOS answers PermissionError for a group of dead processes
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self, num_lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-num_lines:])

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def restart_dead(children: Sequence[Child], report: Callable[[str], None]) -> None:
    """Start children again that have died: after 1 s, and after twice as long each time it dies early again."""
    now = time.monotonic()
    for child in children:
        exit_code = child.exit_code()
        if exit_code is None:
            continue
        if child.restart_at is None:
            child.num_early_deaths = 0 if now - child.started_at > STEADY_SECONDS else child.num_early_deaths
            wait_seconds = min(FIRST_RESTART_SECONDS * 2**child.num_early_deaths, LONGEST_RESTART_SECONDS)
            child.num_early_deaths += 1
            child.restart_at = now + wait_seconds
            report(
                f"{child.name} ended ({describe_exit(exit_code)}), starts again in {wait_seconds:g} s: {child.log_file}"
            )
        elif now >= child.restart_at:
            child.start()
            report(f"{child.name} started again (process {child.pid})")


def end_all(children: Sequence[Child], seconds: float, is_urgent: Callable[[], bool] = lambda: False) -> list[str]:
    """End the children and return when they are gone; names of those that had to be killed.

    Each has until `seconds` are over, or until `is_urgent`, to end by itself.
    """
    for child in children:
        child.request_stop()
    deadline = time.monotonic() + seconds
    while any(child.exit_code() is None for child in children) and time.monotonic() < deadline and not is_urgent():
        time.sleep(POLL_SECONDS)
    killed = [child for child in children if child.exit_code() is None]
    for child in killed:
        child.kill()
    while any(child.exit_code() is None for child in killed):  # SIGKILL cannot be refused
        time.sleep(POLL_SECONDS)
    return [child.name for child in killed]


def describe_exit(exit_code: int) -> str:
    """In words: "exit code 1", "killed by SIGKILL"."""
    return f"exit code {exit_code}" if exit_code >= 0 else f"killed by {signal.Signals(-exit_code).name}"
