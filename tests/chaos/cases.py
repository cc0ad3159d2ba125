"""What is done to the service, and where in a job it is done."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import get_args

from alignclip_core.faults import FaultPoint

POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)
IN_TRAINER: tuple[FaultPoint, ...] = ("mid_step", "mid_checkpoint_write")  # a trainer is held there, else a worker

NUM_STEPS = 24  # of every job
CHECKPOINT_EVERY = 8

EVERYWHERE = (
    "kill_worker", "kill_api", "stall_worker", "kill_broker", "flush_broker", "restart_broker",
)  # fmt: skip
ON_POSTGRES = ("cut_database", "restart_database")  # SQLite has neither a connection nor a server


@dataclass(frozen=True)
class Case:
    """One fault."""

    point: FaultPoint
    action: str  # a method of Faults
    arrival: int = 1  # which coming to the point is held


def make_cases(*, has_postgres: bool, seed: int) -> list[Case]:
    """Every action at every point where it has a living target, in an order of the seed's."""
    choice = random.Random(seed)
    pairs = [(point, action) for point in POINTS for action in EVERYWHERE]
    pairs += [(point, action) for point in IN_TRAINER for action in ("kill_trainer", "kill_both")]
    pairs += [("mid_checkpoint_write", "fill_disk")]
    if has_postgres:
        pairs += [(point, action) for point in POINTS for action in ON_POSTGRES]
        pairs += [("mid_step", "jump_clock")]  # SQLite has no clock but the workers'
    choice.shuffle(pairs)
    return [Case(point, action, _arrival(point, choice)) for point, action in pairs]


def _arrival(point: FaultPoint, choice: random.Random) -> int:
    """Most steps come after a checkpoint, and two of three checkpoints after another."""
    if point == "mid_step":
        return choice.randint(1, NUM_STEPS)
    return choice.randint(1, NUM_STEPS // CHECKPOINT_EVERY) if point == "mid_checkpoint_write" else 1
