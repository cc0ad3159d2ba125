"""make bench: run the benchmarks of training, print one table, write benchmarks/results/*.json.

Names as arguments choose some; `serving` is one of its own, make bench-serving.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from benchmarks import input_pipeline, memory, serving, start, training_step
from benchmarks.rows import save_rows

TRAINING = {
    "training_step": training_step.measure,
    "memory": memory.measure,
    "input_pipeline": input_pipeline.measure,
    "start": start.measure,
}
BENCHMARKS = {**TRAINING, "serving": serving.measure}


def main() -> None:
    """Run what the command line names, or all of training."""
    console = Console(width=160)
    table = Table("name", "value", "unit", "detail")
    for name in sys.argv[1:] or TRAINING:
        with console.status(f"measuring {name}"):
            rows = BENCHMARKS[name]()
        save_rows(name, rows)
        for row in rows:
            table.add_row(row.name, f"{row.value:.3f}", row.unit, row.detail)
    console.print(table)


if __name__ == "__main__":
    main()
