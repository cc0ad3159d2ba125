"""What the long runs did, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.cases import POINTS, Case


@dataclass
class Result:
    """One case that was survived."""

    case: Case
    job_id: str
    seconds: float
    num_runs: int = 0  # of the job, all in all; other cases may have hit it too


def write_table(
    path: Path, database: str, results: Sequence[Result], *, num_jobs: int, num_lost_runs: int, seed: int
) -> None:
    """Actions down, points across; a cell says how many runs the job took in the end."""
    actions = sorted({result.case.action for result in results})
    lines = [
        f"On {database}: {num_jobs} jobs, {len(results)} faults, {num_lost_runs} runs lost, seed {seed}.",
        "",
        "| | " + " | ".join(f"`{point}`" for point in POINTS) + " |",
        "| --- " * (len(POINTS) + 1) + "|",
    ]
    for action in actions:
        cells = [_cell(results, action, point) for point in POINTS]
        lines.append(f"| {action.replace('_', ' ')} | " + " | ".join(cells) + " |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _cell(results: Sequence[Result], action: str, point: str) -> str:
    found = [result for result in results if (result.case.action, result.case.point) == (action, point)]
    return ", ".join(f"{result.num_runs} run{'s' if result.num_runs > 1 else ''}" for result in found)
