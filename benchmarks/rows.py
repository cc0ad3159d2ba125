"""A benchmark's result: rows in a table and in `benchmarks/results/<benchmark>.json`."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure: what was measured, its value and unit, and under which conditions."""

    name: str
    value: float
    unit: str
    detail: str


def save_rows(benchmark: str, rows: Sequence[Row]) -> None:
    """Write the rows where the next run replaces them."""
    RESULTS.mkdir(exist_ok=True)
    content = json.dumps([asdict(row) for row in rows], indent=2)
    (RESULTS / f"{benchmark}.json").write_text(content + "\n")


def machine() -> str:
    """What the figures were taken on, in words."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU {platform.machine()}"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}"


def peak_bytes() -> int:
    """The most memory that this process has held: on CUDA what torch allocated, else what was resident (Linux).

    Not getrusage's ru_maxrss: a child begins with its parent's.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024
