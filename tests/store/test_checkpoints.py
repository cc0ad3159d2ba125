"""Which resume points are kept, which is the best, and what a client may delete."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from alignclip_store.checkpoints import (
    all_checkpoints,
    best_checkpoint,
    delete_checkpoint,
    superseded_checkpoints,
)
from alignclip_store.database import reading, transaction
from alignclip_store.errors import CheckpointInUse, CheckpointNotFound, JobNotFound
from alignclip_store.runs import Claim, finish, record_checkpoint, start_training
from alignclip_store.tables import Checkpoint, Job


def checkpoint(step: int, accuracy: float | None = None) -> Checkpoint:
    return Checkpoint(step=step, metrics={} if accuracy is None else {"valid_accuracy": accuracy})


@pytest.mark.parametrize(
    ("accuracies", "best", "superseded"),
    [
        ([0.9, 0.5, 0.6, 0.7], 1, [2]),
        ([0.5, 0.9, 0.6, 0.9], 4, [1, 2]),
        ([None, None, None], None, [1]),
        ([0.0, None, None], 1, []),
        ([0.5], 1, []),
        ([], None, []),
    ],
)
def test_the_newest_and_the_best_are_kept(accuracies: list, best: int | None, superseded: list[int]) -> None:
    rows = [checkpoint(step, accuracy) for step, accuracy in enumerate(accuracies, start=1)]
    found = best_checkpoint(rows)
    assert (found and found.step) == best
    assert [row.step for row in superseded_checkpoints(rows[::-1], num_newest=2)] == superseded


def test_a_client_deletes_checkpoints_but_not_the_one_that_the_job_goes_on_from(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        for step in (25, 50):
            record_checkpoint(session, ours, step=step, artifact_uri=f"artifact:c/{step}", metrics={}, num_bytes=7)
        old, new = all_checkpoints(session, job.id)
    with transaction(engine) as session:
        with pytest.raises(JobNotFound):
            delete_checkpoint(session, "bob", job.id, old.id)
        with pytest.raises(CheckpointNotFound):
            delete_checkpoint(session, "ada", job.id, "ckpt-none")
        with pytest.raises(CheckpointInUse, match="cancel the job first"):
            delete_checkpoint(session, "ada", job.id, new.id)
        assert delete_checkpoint(session, "ada", job.id, old.id).artifact_uri == "artifact:c/25"
    with transaction(engine) as session:
        finish(session, ours, "cancelled")
        delete_checkpoint(session, "ada", job.id, new.id)
    with reading(engine) as session:
        assert all_checkpoints(session, job.id) == []
