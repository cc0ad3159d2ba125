"""What the memory dials give and cost: gradient checkpointing and each `trainable`, against the plain AlignCLIP step.

ViT-B/16 at 224, random weights, bf16, AdamW and average included. Peak memory is that of a process of its own (all
that it holds resident, the libraries too; on CUDA what torch allocates). Times are of steps that alternate with the
plain one's; a ratio is the median over the rounds.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks.rows import Row, machine, peak_bytes
from benchmarks.training_step import MEMORY_STEPS, make_step, seconds_of

PLAIN: Mapping[str, Any] = {}
CHECKPOINTING = {"gradient_checkpointing": True}
TRAINABLE = ("last_k_blocks", "attention", "query_key", "lora")
LARGE_BATCH, SMALL_BATCH = 36, 8
NUM_ROUNDS = 3
MICRO_BATCH = 12


def measure() -> list[Row]:
    """Ratios of memory and time to the plain step."""
    rows = [
        _memory_ratio("checkpointing", CHECKPOINTING, LARGE_BATCH),
        _time_ratio("checkpointing", CHECKPOINTING, SMALL_BATCH),
        _memory_ratio(f"micro_batches_of_{MICRO_BATCH}", {"micro_batch_size": MICRO_BATCH}, LARGE_BATCH),
    ]
    for choice in TRAINABLE:
        fields = {"trainable": choice}
        rows += [_memory_ratio(choice, fields, SMALL_BATCH), _time_ratio(choice, fields, SMALL_BATCH)]
    return rows


def _memory_ratio(name: str, fields: Mapping[str, Any], batch: int) -> Row:
    theirs, ours = (_peak_in_own_process(json.dumps(dict(each)), batch) for each in (PLAIN, fields))
    detail = f"batch {batch}, bf16, {ours / 2**30:.2f} over {theirs / 2**30:.2f} GiB at the peak; {machine()}"
    return Row(f"peak_memory_ratio_{name}", ours / theirs, "ratio", detail)


def _time_ratio(name: str, fields: Mapping[str, Any], batch: int) -> Row:
    plain, changed = (make_step("alignclip", "bf16", batch, **each) for each in (PLAIN, fields))
    plain()
    changed()
    rounds = [(seconds_of(changed), seconds_of(plain)) for _ in range(NUM_ROUNDS)]
    ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
    detail = f"batch {batch}, bf16, median of {NUM_ROUNDS} rounds ({ours:.2f} s and {theirs:.2f} s); {machine()}"
    ratio = statistics.median(changed / plain for changed, plain in rounds)
    return Row(f"step_time_ratio_{name}", ratio, "ratio", detail)


@functools.cache
def _peak_in_own_process(fields: str, batch: int) -> int:
    """Bytes: the most memory that a process of its own held over some steps; `fields` of the config as JSON."""
    command = [sys.executable, "-m", "benchmarks.memory", fields, str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _print_peak(fields: str, batch: str) -> None:
    step = make_step("alignclip", "bf16", int(batch), **json.loads(fields))
    for _ in range(MEMORY_STEPS):
        step()
    print(peak_bytes())


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
