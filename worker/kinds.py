"""What the runs of each kind of job do differently. All else, from claim to finish, is the same for every job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alignclip_core.run_dir import RunDir
from alignclip_store.job_kinds import JobKind
from alignclip_store.settings import Settings
from worker.classification_staging import stage_classification
from worker.current_run import CurrentRun
from worker.launcher import classifier_command, trainer_command
from worker.outcome import Outcome
from worker.publishing import publish_answers, publish_model
from worker.staging import stage


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of one kind of job."""

    stage: Callable[[CurrentRun], int | None]  # fills the run directory; the step that is gone on from
    command: Callable[[RunDir, Settings], list[str]]  # the process that works in it
    publish: Callable[[CurrentRun], Outcome]  # stores what that has made


WORK: Mapping[JobKind, Work] = {
    JobKind.FINE_TUNING: Work(stage=stage, command=trainer_command, publish=publish_model),
    JobKind.CLASSIFICATION: Work(stage=stage_classification, command=classifier_command, publish=publish_answers),
}
