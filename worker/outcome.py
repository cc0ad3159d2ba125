"""How a run of a job ended, as the worker decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from alignclip_store.runs import NewModel, NewResultFile

StopReason = Literal["cancelled", "paused", "shutdown", "deadline", "lost"]
"""Why a run should end before its trainer: a client's wish, a worker's shutdown, its time is up, its lease is gone."""

OutcomeKind = Literal["succeeded", "failed", "cancelled", "paused", "released", "given_up", "lost"]

DISK_FULL = "disk_full"
STORAGE_FAILED = "storage_failed"
DATABASE_AWAY = "database_away"
PASSING_CODES = frozenset({DISK_FULL, STORAGE_FAILED, DATABASE_AWAY})
"""Codes of trouble that may pass with time: the next run waits for a lease's length."""


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """The error of a job's row: the three keys that clients read."""
    return {"code": code, "message": message, "param": param}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the job's row is told.

    kind        what happens to the job
    succeeded   it is finished, with a model or a file of answers
    failed      it is finished, with an error; another run would fail the same way
    cancelled   it is finished, as its client wished
    paused      it waits, as its client wished, and goes on from its last checkpoint when it is resumed
    released    it is queued again and goes on from its last checkpoint; the run is not charged
    given_up    the same, but the run counts against `max_runs_per_job`; after the last one the job fails with the error
    lost        nothing: another run has the job
    """

    kind: OutcomeKind
    error: dict[str, Any] | None = None  # code, message, param
    result: Mapping[str, Any] | None = None  # of a success: the evaluations before and after, or counts of answers
    model: NewModel | None = None  # of a fine-tuning that succeeded
    result_file: NewResultFile | None = None  # of a classification that did

    @classmethod
    def failed(cls, code: str, message: str, param: str | None = None) -> Outcome:
        return cls(kind="failed", error=error_body(code, message, param))

    @classmethod
    def given_up(cls, code: str, message: str) -> Outcome:
        return cls(kind="given_up", error=error_body(code, message))


class RunStopped(Exception):
    """Raised between two steps of a run that should not go on; carries the reason."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def outcome(self) -> Outcome:
        return STOPPED[self.reason]


STOPPED: dict[StopReason, Outcome] = {
    "cancelled": Outcome(kind="cancelled"),
    "paused": Outcome(kind="paused"),
    "shutdown": Outcome(kind="released"),
    "deadline": Outcome.failed(
        "deadline_exceeded",
        "The run took longer than this service allows (ALIGNCLIP_MAX_RUN_SECONDS). Its last checkpoint is kept: retry "
        "the job and it goes on from there, or ask for less: fewer num_steps, or a smaller dataset.",
    ),
    "lost": Outcome(kind="lost"),
}
