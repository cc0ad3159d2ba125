"""What is done to the service, and where in a job it is done."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import zip_longest
from typing import get_args

from alignclip_core.faults import FaultPoint

POINTS: tuple[FaultPoint, ...] = get_args(FaultPoint)
IN_TRAINER: tuple[FaultPoint, ...] = ("mid_step", "mid_checkpoint_write")  # a trainer is held there, else a worker

NUM_STEPS = 24  # of every job
CHECKPOINT_EVERY = 8

EVERYWHERE = (
    "kill_worker", "kill_api", "stall_worker", "kill_broker", "flush_broker", "restart_broker", "jump_clock",
)  # fmt: skip
ON_POSTGRES = ("cut_database", "restart_database")  # SQLite has neither a connection nor a server
ON_SQLITE = ("kill_ahead",)  # whose clock is that of its processes, so that a wrong one writes leases
ON_SMALL_DISKS = ("fill_disk", "fill_database")


@dataclass(frozen=True)
class Case:
    """One fault."""

    point: FaultPoint
    action: str  # a method of Faults
    arrival: int = 1  # which coming to the point is held


def make_cases(*, has_postgres: bool, has_small_disks: bool, seed: int) -> list[Case]:
    """Every action at every point where it has a living target, in an order of the seed's.

    Each round does every action once, so that a run that is broken off has seen all of them.
    """
    choice = random.Random(seed)
    points = dict.fromkeys((*EVERYWHERE, *(ON_POSTGRES if has_postgres else ON_SQLITE)), POINTS)
    points |= {"kill_trainer": IN_TRAINER, "kill_both": IN_TRAINER, "fill_disk": ("mid_checkpoint_write",)}
    points |= dict.fromkeys(ON_SMALL_DISKS if has_small_disks else (), POINTS)
    cases = []
    for pairs in zip_longest(*(_pairs(action, points[action], choice) for action in sorted(points))):
        found = [pair for pair in pairs if pair is not None]
        cases += [Case(point, action, _arrival(point, choice)) for point, action in choice.sample(found, len(found))]
    return cases


def _pairs(action: str, points: tuple[FaultPoint, ...], choice: random.Random) -> list[tuple[FaultPoint, str]]:
    return [(point, action) for point in choice.sample(points, len(points))]


def _arrival(point: FaultPoint, choice: random.Random) -> int:
    """Most steps come after a checkpoint, and two of three checkpoints after another."""
    if point == "mid_step":
        return choice.randint(1, NUM_STEPS)
    return choice.randint(1, NUM_STEPS // CHECKPOINT_EVERY) if point == "mid_checkpoint_write" else 1
