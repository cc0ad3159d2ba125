"""The kinds of jobs, and what sets them apart in the rows. Everything else is the same for all of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class JobKind(StrEnum):
    """What a job is asked to do."""

    FINE_TUNING = "fine_tuning"
    CLASSIFICATION = "classification"


@dataclass(frozen=True, kw_only=True)
class KindFacts:
    """How the rows of a kind differ from those of the others."""

    noun: str  # in words to people
    dataset_param: str  # the field of the request that names the images
    id_prefix: str
    event_prefix: str  # of the types of webhook messages
    step_metrics: str  # kind of the metrics whose step says how far the job is


FACTS: Mapping[JobKind, KindFacts] = {
    JobKind.FINE_TUNING: KindFacts(
        noun="fine-tuning job",
        dataset_param="training_file",
        id_prefix="ftjob",
        event_prefix="fine_tuning.job",
        step_metrics="train",
    ),
    JobKind.CLASSIFICATION: KindFacts(
        noun="classification",
        dataset_param="dataset",
        id_prefix="classify",
        event_prefix="classification",
        step_metrics="classify",
    ),
}
