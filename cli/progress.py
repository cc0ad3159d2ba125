"""The live view of a training: phase, steps, losses, accuracy, time left; plain lines where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LINE_SECONDS = 10.0  # between two lines of numbers where there is no terminal
STYLES = {"warn": "yellow", "error": "red"}
NUMBERS = (  # key of a train record, word, format
    ("loss", "loss", ".3f"),
    ("smoothing_loss", "smoothing", ".3f"),
    ("layer_alignment_loss", "layer alignment", ".3f"),
    ("similarity_alignment_loss", "similarity alignment", ".3f"),
    ("accuracy", "accuracy", ".1%"),
    ("images_per_second", "images/s", ".1f"),
)


class TrainingProgress:
    """Shows what it is told, and keeps nothing but the last of it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        time_left = TimeRemainingColumn(elapsed_when_finished=True)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), time_left
        )
        self._task = self._bar.add_task("queued", total=None)
        self._phase = ""
        self._numbers = ""
        self._line_at = 0.0
        self._live = Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> TrainingProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show_phase(self, phase: str) -> None:
        """What is being done now, in words."""
        if phase != self._phase and not self._console.is_terminal:
            self._console.print(phase, markup=False)
        self._phase = phase
        self._bar.update(self._task, description=phase)

    def show_step(self, step: int, num_steps: int) -> None:
        self._bar.update(self._task, completed=step, total=num_steps)

    def show_numbers(self, step: int, values: Mapping[str, Any]) -> None:
        """The values of a train record."""
        shown = [f"{word} {values[key]:{form}}" for key, word, form in NUMBERS if values.get(key) is not None]
        self._numbers = "  ".join(shown)
        if not self._console.is_terminal and time.monotonic() >= self._line_at:
            self._console.print(f"step {step}: {self._numbers}", markup=False)
            self._line_at = time.monotonic() + LINE_SECONDS

    def show_evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """The values of an evaluation record: accuracy of each set of weights on source validation."""
        words = {
            "zero_shot": "zero-shot",
            "raw": "weights as they are",
            "bma": "averaged weights",
            "swad": "averaged weights",
            "interpolated": "interpolated weights",
        }
        parts = [f"{words[name]} {values[name]['accuracy']:.1%}" for name in words if values.get(name)]
        if parts:
            self.say("info", f"step {step}: validation accuracy: {', '.join(parts)}")

    def say(self, level: str, message: str) -> None:
        """A line that stays."""
        self._console.print(Text(message, style=STYLES.get(level, "")))

    def _render(self) -> Group:
        return Group(self._bar, Text(self._numbers, style="dim"))
