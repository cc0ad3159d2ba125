"""The states of a job and the legal ways between them. Pure."""

from __future__ import annotations

from enum import StrEnum


class JobStatus(StrEnum):
    """OpenAI's words for the state of a fine-tuning job."""

    QUEUED = "queued"  # waits for a worker
    VALIDATING_FILES = "validating_files"  # claimed; the data is fetched and checked
    RUNNING = "running"  # a trainer works on it
    PAUSED = "paused"  # stopped by its owner, may go on
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.VALIDATING_FILES, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.VALIDATING_FILES: frozenset(
        {JobStatus.RUNNING, JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}
    ),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.CANCELLED, JobStatus.FAILED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),  # by a retry alone
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}

CLAIMED = (JobStatus.VALIDATING_FILES, JobStatus.RUNNING)  # a worker holds a lease
FINISHED = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


def sources_of(target: JobStatus) -> tuple[JobStatus, ...]:
    """The states from which a job may go to `target`, for the WHERE of a conditional UPDATE."""
    return tuple(status for status, targets in TRANSITIONS.items() if target in targets)
