"""GPU seconds of a month and stored bytes: counted, met at the POST, and met at the claim."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, select, update

from alignclip_store.database import database_now, reading, transaction
from alignclip_store.errors import QuotaExceeded
from alignclip_store.events import list_events
from alignclip_store.files import create_file
from alignclip_store.limits import require_room_for_bytes, require_room_in_queue
from alignclip_store.models import create_model
from alignclip_store.quotas import month_of, used_bytes, used_gpu_seconds
from alignclip_store.runs import (
    Claim,
    WorkerIdentity,
    claim_next,
    finish,
    jobs_to_wake,
    record_checkpoint,
    start_training,
)
from alignclip_store.settings import Settings
from alignclip_store.tables import Job, Run
from alignclip_store.waiting import view_queue

WORKER = WorkerIdentity(name="w", host="h", device="cuda", num_devices=2)


def make_run(engine: Engine, new_job: Callable[..., Job], started_at: datetime, ended_at: datetime | None, **fields):
    job = new_job(**fields)
    with transaction(engine) as session:
        claim = claim_next(session, WORKER, 60)
        assert claim is not None
        if ended_at is not None:
            finish(session, claim, "cancelled")
        session.execute(update(Run).where(Run.id == claim.run_id).values(started_at=started_at, ended_at=ended_at))
    return job, claim


def test_gpu_seconds_are_those_of_this_month_on_every_device(engine: Engine, new_job: Callable[..., Job]) -> None:
    with reading(engine) as session:
        now = database_now(session)
    start, _ = month_of(now)
    make_run(engine, new_job, start - timedelta(seconds=50), start + timedelta(seconds=100))
    make_run(engine, new_job, start - timedelta(days=3), start - timedelta(days=2))
    make_run(engine, new_job, start, start + timedelta(seconds=1000), owner="bob")
    with reading(engine) as session:
        assert used_gpu_seconds(session, "ada") == pytest.approx(200, abs=0.01)
    make_run(engine, new_job, now - timedelta(seconds=30), None)
    with reading(engine) as session:
        used = used_gpu_seconds(session, "ada") - 200
        assert 2 * 30 <= used + 0.01 <= 2 * (database_now(session) - now + timedelta(seconds=30)).total_seconds() + 0.1


@pytest.mark.parametrize(
    ("now", "start", "following"),
    [
        ("2026-11-26 21:00:00", "2026-11-01", "2026-12-01"),
        ("2026-12-31 23:59:59", "2026-12-01", "2027-01-01"),
        ("2027-01-01 00:00:00", "2027-01-01", "2027-02-01"),
    ],
)
def test_a_month_is_the_calendars(now: str, start: str, following: str) -> None:
    found = month_of(datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [f"{moment:%Y-%m-%d}" for moment in found] == [start, following]


def test_stored_bytes_are_files_checkpoints_and_models(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    job = new_job()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        values = {"filename": "a.zip", "purpose": "fine-tune", "sha256": "0" * 64, "artifact_uri": "artifact:f"}
        create_file(session, "ada", num_bytes=1, **values)
        create_file(session, "bob", num_bytes=1000, **values)
        record_checkpoint(session, ours, step=1, artifact_uri="artifact:c", metrics={}, num_bytes=20)
        create_model(session, session.get_one(Job, job.id), artifact_uri="artifact:m", manifest={}, num_bytes=300)
        assert (used_bytes(session, "ada"), used_bytes(session, "bob"), used_bytes(session, "eve")) == (321, 1000, 0)
        settings = Settings(max_stored_bytes=400)
        require_room_for_bytes(session, "ada", 79, settings)
        with pytest.raises(QuotaExceeded, match="80 bytes and 321 are stored"):
            require_room_for_bytes(session, "ada", 80, settings)


@pytest.mark.parametrize("quota", ["gpu", "bytes"])
def test_a_used_up_quota_refuses_new_jobs_and_lets_waiting_ones_wait(
    engine: Engine, new_job: Callable[..., Job], quota: str
) -> None:
    with reading(engine) as session:
        now = database_now(session)
    start, _ = month_of(now)
    make_run(engine, new_job, start, start + timedelta(seconds=60))
    with transaction(engine) as session:
        values = {"filename": "a.zip", "purpose": "fine-tune", "sha256": "0" * 64, "artifact_uri": "artifact:f"}
        create_file(session, "ada", num_bytes=500, **values)
    tight = Settings(max_gpu_seconds_per_month=100) if quota == "gpu" else Settings(max_stored_bytes=500)
    wide = Settings(max_gpu_seconds_per_month=130) if quota == "gpu" else Settings(max_stored_bytes=501)
    held, other = new_job(), new_job(owner="bob")

    with transaction(engine) as session:
        require_room_in_queue(session, "bob", tight)
        require_room_in_queue(session, "ada", wide)
        with pytest.raises(QuotaExceeded, match="GPU seconds" if quota == "gpu" else "500 bytes are stored"):
            require_room_in_queue(session, "ada", tight)

    with transaction(engine) as session:
        claimed = claim_next(session, WORKER, 60, quotas=tight)
        assert claimed is not None
        assert claimed.job_id == other.id, "the older job's owner has nothing left"
    for _ in range(2):  # said once
        with transaction(engine) as session:
            assert claim_next(session, WORKER, 60, quotas=tight) is None
            assert jobs_to_wake(session, tight) == []
    with reading(engine) as session:
        job = session.scalars(select(Job).where(Job.id == held.id)).one()
        events, _ = list_events(session, "ada", held.id)
        place = view_queue(session).places[held.id]
    assert (job.status, job.phase) == ("queued", "over_quota")
    assert [event.level for event in events] == ["warn", "info"]
    assert events[0].message.startswith("The job waits: ")
    assert place.estimated_start_at is None

    with transaction(engine) as session:
        assert jobs_to_wake(session, wide) == [held.id]
    with transaction(engine) as session:
        resumed = claim_next(session, WORKER, 60, quotas=wide)
        assert resumed is not None
        assert resumed.job_id == held.id
    with reading(engine) as session:
        messages = [event.message for event in list_events(session, "ada", held.id, newest_first=False)[0]]
    assert messages[2] == "The job waits for a worker again."
