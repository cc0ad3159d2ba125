"""The logs of `serve`'s children, below home/logs: kept for one start more, and shown if wanted."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text


def fresh_log(folder: Path, name: str) -> Path:
    """An empty log; the one of the last start stays beside it as name.log.1."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{name}.log"
    if path.exists():
        path.replace(folder / f"{name}.log.1")
    path.touch(mode=0o600)
    return path


class LogFollower:
    """Shows what was added to the logs, line by line, under the name of each."""

    def __init__(self, logs: dict[str, Path], console: Console) -> None:
        self._logs = logs
        self._console = console
        self._offsets = dict.fromkeys(logs, 0)

    def show(self) -> None:
        """Print the lines that became complete since the last call."""
        for name, path in self._logs.items():
            with path.open("rb") as file:
                file.seek(self._offsets[name])
                complete, newline, _ = file.read().rpartition(b"\n")
            self._offsets[name] += len(complete) + len(newline)
            for line in complete.decode(errors="replace").splitlines():
                self._console.print(Text.assemble((f"{name:>6} ", "dim"), line))
