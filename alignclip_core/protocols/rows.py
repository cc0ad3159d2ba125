"""Rows of results.jsonl: one finished cell a line, with all that a table or a doubter needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignclip_core.errors import ArtifactCorrupt

Evaluation = Mapping[str, Any]  # as a result has it


@dataclass(frozen=True, kw_only=True)
class Row:
    """The answer of one cell."""

    method: str
    protocol: str
    dataset: str
    target: str
    seed: int
    n: int  # images of the answer
    accuracy: float
    zero_shot: float | None  # of the base model on the same images; None: of another dataset, or without texts
    beside: Mapping[str, float]  # other accuracies of the same run: DomainBed's shares, base and new classes
    split: str  # in words
    split_sha256: str  # of which images train, validate and test
    trained: str  # in words
    num_steps: int
    seconds: float  # of the run that it shares with its question's other answers
    command: str
    base_model: str = "starter"

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """As of `Cell`."""
        return (self.base_model, self.dataset, self.protocol, self.target, self.method, self.seed)

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def read_rows(path: Path) -> list[Row]:
    """The rows of a file, of each cell the last; a line that was cut off at the end is left out.

    Raises `ArtifactCorrupt`, naming the line, for any other that is no row.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    rows: dict[tuple[str, str, str, str, str, int], Row] = {}
    for number, line in enumerate(lines, start=1):
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise ArtifactCorrupt(f"{path}, line {number} is no row of a result: {error}.") from error
        rows[row.key] = row
    return list(rows.values())


def accuracy_of(evaluation: Evaluation) -> tuple[float, int]:
    """Accuracy and number of images."""
    return evaluation["accuracy"], evaluation["num_images"]


def figures_beside(group: tuple[str, str], tuned: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, float]:
    """What a result says beside the answer: shares of a test domain, trained and unseen classes on their own."""
    domains, classes = group
    parts = tuned[domains][classes].get("parts", {})
    figures = {name: part["accuracy"] for name, part in parts.items()}
    if classes == "all_classes":
        words = {"trained_classes": "base", "unseen_classes": "new"}
        figures |= {words[name]: tuned[domains][name]["accuracy"] for name in words if name in tuned[domains]}
    return figures
