"""What a trainer says in metrics.jsonl, passed on to the job's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from alignclip_core.run_dir import Record
from alignclip_store import runs
from worker.current_run import CurrentRun
from worker.uploads import Uploads

NUMBERS = ("train", "evaluation", "classify")  # kinds of records that become rows of metrics


class Reports:
    """Reads the records of one run in order and passes each on once."""

    def __init__(self, run: CurrentRun, uploads: Uploads) -> None:
        self._run = run
        self._uploads = uploads
        self._offset = 0  # of the next unread byte
        self._latest: dict[str, Mapping[str, Any]] = {}  # of each kind of numbers, for the next checkpoint's row

    def pass_on(self) -> None:
        """Pass on what is new; when the database is away, it stays new."""
        records, offset = self._run.run_dir.read_records(self._offset)
        if records and self._run.try_write(lambda session: self._write(session, records)):
            self._note(records, offset)

    def pass_on_rest(self) -> None:
        """Pass on all that is left once the trainer has ended, its last checkpoint too. Raises `LeaseLost`."""
        records, offset = self._run.run_dir.read_records(self._offset)
        if records:
            self._run.write(lambda session: self._write(session, records))
            self._note(records, offset)
        for step, folder in self._run.run_dir.list_checkpoints()[-1:]:
            self._uploads.put_checkpoint(step, folder, self._checkpoint_metrics(folder))

    def _write(self, session: Session, records: Sequence[Record]) -> None:
        claim = self._run.claim
        numbers = [
            {"step": record.step, "kind": record.kind, "values": record.values}
            for record in records
            if record.kind in NUMBERS
        ]
        if numbers:
            runs.record_metrics(session, claim, numbers)
        phases = [str(record.values["phase"]) for record in records if record.kind == "phase"]
        if phases:
            runs.record_phase(session, claim, phases[-1])
        for record in records:
            if record.kind == "event":
                runs.record_event(session, claim, record.values["level"], record.values["message"])

    def _note(self, records: Sequence[Record], offset: int) -> None:
        self._offset = offset
        for record in records:
            if record.kind in NUMBERS:
                self._latest[record.kind] = record.values
            elif record.kind == "checkpoint":
                folder = self._run.run_dir.checkpoints / str(record.values["folder"])
                self._uploads.put_checkpoint(record.step, folder, self._checkpoint_metrics(folder))

    def _checkpoint_metrics(self, folder: Path) -> dict[str, Any]:
        """{} for a checkpoint that the trainer has removed for newer ones already."""
        try:
            accuracy = self._run.run_dir.checkpoint_accuracy(folder)
        except FileNotFoundError:
            return {}
        return checkpoint_metrics(self._latest, accuracy)


def checkpoint_metrics(latest: Mapping[str, Mapping[str, Any]], accuracy: float | None) -> dict[str, Any]:
    """The numbers of a checkpoint by OpenAI's names; accuracy stands where a text model has that of its tokens."""
    metrics: dict[str, Any] = {}
    if train := latest.get("train"):
        metrics |= {"train_loss": train.get("loss"), "train_mean_token_accuracy": train.get("accuracy")}
    if accuracy is not None:
        evaluations = list(latest.get("evaluation", {}).values())
        metrics |= {
            "valid_loss": evaluations[-1].get("loss") if evaluations else None,  # the weights that serve come last
            "valid_mean_token_accuracy": accuracy,
            "valid_accuracy": accuracy,
        }
    return metrics
