"""The client's view of its jobs."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from alignclip_store.checkpoints import list_checkpoints
from alignclip_store.database import reading, transaction
from alignclip_store.errors import CheckpointNotFound, EventNotFound, FileNotFound, IllegalTransition, JobNotFound
from alignclip_store.events import list_events, record_event
from alignclip_store.files import create_file
from alignclip_store.jobs import get_job, list_jobs, list_metrics, list_runs, request_cancel
from alignclip_store.runs import Claim, finish, heartbeat, record_checkpoint, record_metrics, start_training
from alignclip_store.tables import Job


def _messages(engine: Engine, job: Job) -> list[str]:
    with reading(engine) as session:
        return [event.message for event in list_events(session, job.owner, job.id, limit=100, newest_first=False)[0]]


def test_a_new_job_is_queued_and_says_so(engine: Engine, new_job: Callable[..., Job]) -> None:
    job = new_job(labels={"team": "vision"}, suffix="pets")
    with reading(engine) as session:
        stored = get_job(session, "ada", job.id)
    assert (stored.status, stored.phase, stored.step, stored.fence) == ("queued", "queued", 0, 0)
    assert (stored.labels, stored.suffix, stored.config) == ({"team": "vision"}, "pets", {"num_steps": 100})
    assert stored.error is None
    assert stored.result is None
    assert _messages(engine, job) == [f"Created fine-tuning job: {job.id}"]


def test_a_job_of_another_owner_is_not_there(engine: Engine, new_job: Callable[..., Job]) -> None:
    job = new_job()
    with reading(engine) as session:
        for look in (get_job, list_runs, list_metrics, list_checkpoints, list_events, request_cancel):
            with pytest.raises(JobNotFound):
                look(session, "eve", job.id)
        with pytest.raises(JobNotFound):
            record_event(session, "eve", job.id, "info", "I was here")
        assert list_jobs(session, "eve") == ([], False)
        with pytest.raises(JobNotFound) as caught:
            list_jobs(session, "eve", after=job.id)
    assert caught.value.param == "after"


def test_the_files_of_a_new_job_must_be_its_owners(engine: Engine, new_job: Callable[..., Job]) -> None:
    with transaction(engine) as session:
        file = create_file(
            session, "eve", filename="a.zip", purpose="fine-tune", num_bytes=1, sha256="0", artifact_uri="artifact:a"
        )
    with pytest.raises(FileNotFound) as caught:
        new_job(validation_file=file.id)
    assert caught.value.param == "validation_file"
    new_job(owner="eve", training_file=file.id)


def test_jobs_are_listed_newest_first_in_pages(engine: Engine, new_job: Callable[..., Job]) -> None:
    ids = [new_job().id for _ in range(7)][::-1]
    new_job(owner="eve")
    pages, after, has_more = [], None, True
    while has_more:
        with reading(engine) as session:
            jobs, has_more = list_jobs(session, "ada", after=after, limit=3)
        pages.append([job.id for job in jobs])
        after = pages[-1][-1]
    assert pages == [ids[:3], ids[3:6], ids[6:]]


def test_jobs_of_the_same_moment_are_each_listed_once(engine: Engine, new_job: Callable[..., Job]) -> None:
    first, *others = [new_job() for _ in range(4)]
    with transaction(engine) as session:
        for job in others:
            session.merge(job).created_at = first.created_at
    with reading(engine) as session:
        page, has_more = list_jobs(session, "ada", limit=2)
        rest, _ = list_jobs(session, "ada", after=page[-1].id, limit=2)
    assert has_more
    assert {job.id for job in page + rest} == {job.id for job in [first, *others]}


@pytest.mark.parametrize(
    ("key", "value"), [("team", "vision"), ('a"b', 'c"d'), ("$.x", "y"), ("a'b--", "%"), ("", ""), ("naïve", "🐈")]
)
def test_jobs_are_found_by_any_label(engine: Engine, new_job: Callable[..., Job], key: str, value: str) -> None:
    labelled = new_job(labels={key: value, "other": "1"})
    new_job(labels={key: value + "x"})
    bare = new_job()
    with reading(engine) as session:
        assert [job.id for job in list_jobs(session, "ada", labels={key: value})[0]] == [labelled.id]
        assert list_jobs(session, "ada", labels={key: value, "other": "2"})[0] == []
        assert [job.id for job in list_jobs(session, "ada", without_labels=True)[0]] == [bare.id]


def test_a_queued_job_is_cancelled_at_once_and_asking_again_changes_nothing(
    engine: Engine, new_job: Callable[..., Job]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        first = request_cancel(session, "ada", job.id)
    with transaction(engine) as session:
        second = request_cancel(session, "ada", job.id)
    assert first.status == second.status == "cancelled"
    assert first.finished_at == second.finished_at
    assert first.finished_at is not None
    assert _messages(engine, job)[1:] == ["The job has been cancelled."]


def test_the_wish_to_cancel_a_claimed_job_reaches_its_worker(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        assert heartbeat(session, ours, 60) is None
    with transaction(engine) as session:
        asked = request_cancel(session, "ada", job.id)
    with transaction(engine) as session:
        again = request_cancel(session, "ada", job.id)
        assert heartbeat(session, ours, 60) == "cancelled"
    assert asked.status == again.status == "validating_files"
    assert asked.cancel_requested_at == again.cancel_requested_at
    assert sum("Cancellation requested" in message for message in _messages(engine, job)) == 1


def test_a_job_that_failed_cannot_be_cancelled(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        finish(session, claim(), "failed", error={"code": "x", "message": "It broke.", "param": None})
    with pytest.raises(IllegalTransition, match="has failed"), transaction(engine) as session:
        request_cancel(session, "ada", job.id)


def test_events_are_read_in_either_order_and_from_any_place(engine: Engine, new_job: Callable[..., Job]) -> None:
    job, other = new_job(), new_job()
    for number in range(4):
        with transaction(engine) as session:
            record_event(session, "ada", job.id, "info", f"event {number}", data={"number": number})
            foreign = record_event(session, "ada", other.id, "warn", "of another job")
    with reading(engine) as session:
        newest, has_more = list_events(session, "ada", job.id, limit=2)
        older, _ = list_events(session, "ada", job.id, after=newest[-1].id, limit=10)
        later, has_later = list_events(session, "ada", job.id, after=older[0].id, newest_first=False)
        with pytest.raises(EventNotFound):
            list_events(session, "ada", job.id, after=foreign.id)
    assert [event.message for event in newest] == ["event 3", "event 2"]
    assert has_more
    assert [event.message for event in older][:2] == ["event 1", "event 0"]
    assert [event.data for event in later] == [{"number": 2}, {"number": 3}]
    assert not has_later


def test_a_page_of_metrics_never_ends_within_a_step(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    with transaction(engine) as session:
        records = [{"step": step, "kind": "train", "values": {"loss": 1.0}} for step in range(1, 6)]
        records += [{"step": step, "kind": "evaluation", "values": {"raw": {}}} for step in (0, 2, 4)]
        record_metrics(session, claim(), records)
    with reading(engine) as session:
        page, has_more = list_metrics(session, "ada", job.id, limit=3)
        rest, has_rest = list_metrics(session, "ada", job.id, after_step=page[-1].step, limit=3)
        trained, _ = list_metrics(session, "ada", job.id, kind="train", after_step=3)
    assert [(row.step, row.kind) for row in page] == [(0, "evaluation"), (1, "train"), (2, "evaluation"), (2, "train")]
    assert [(row.step, row.kind) for row in rest] == [(3, "train"), (4, "evaluation"), (4, "train"), (5, "train")]
    assert (has_more, has_rest) == (True, False)
    assert [row.step for row in trained] == [4, 5]


def test_checkpoints_are_listed_newest_first_in_pages(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
    for step in (25, 50, 75):
        with transaction(engine) as session:
            record_checkpoint(session, ours, step=step, artifact_uri=f"artifact:c/{step}", metrics={"loss": 0.5})
    with reading(engine) as session:
        page, has_more = list_checkpoints(session, "ada", job.id, limit=2)
        rest, has_rest = list_checkpoints(session, "ada", job.id, after=page[-1].id)
        with pytest.raises(CheckpointNotFound):
            list_checkpoints(session, "ada", job.id, after="ckpt-none")
    assert [checkpoint.step for checkpoint in page + rest] == [75, 50, 25]
    assert (has_more, has_rest) == (True, False)
