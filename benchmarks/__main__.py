"""make bench: run every benchmark, print one table, write benchmarks/results/*.json. Names as arguments choose some."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from benchmarks import input_pipeline, memory, start, training_step
from benchmarks.rows import save_rows

BENCHMARKS = {
    "training_step": training_step.measure,
    "memory": memory.measure,
    "input_pipeline": input_pipeline.measure,
    "start": start.measure,
}


def main() -> None:
    """Run what the command line names, or all."""
    console = Console(width=160)
    table = Table("name", "value", "unit", "detail")
    for name in sys.argv[1:] or BENCHMARKS:
        with console.status(f"measuring {name}"):
            rows = BENCHMARKS[name]()
        save_rows(name, rows)
        for row in rows:
            table.add_row(row.name, f"{row.value:.3f}", row.unit, row.detail)
    console.print(table)


if __name__ == "__main__":
    main()
