"""What is wrong with a dataset, in words: one fault with what to do about it. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["fatal", "warning"]  # fatal: a job would fail
NUM_NAMED_PATHS = 20


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault of a dataset."""

    code: str
    severity: Severity
    message: str
    hint: str
    paths: Sequence[str] = ()  # the images it is about

    def to_json(self) -> dict[str, Any]:
        """As the API tells it; of many paths the first."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "hint": self.hint,
            "paths": list(self.paths[:NUM_NAMED_PATHS]),
            "num_paths": len(self.paths),
        }
