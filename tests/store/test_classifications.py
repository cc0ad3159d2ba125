"""Classifications in the store: jobs of the same queue that no fine-tuning call sees, with a file of answers each."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import Engine, select, update

from alignclip_store.checkpoints import all_checkpoints, list_checkpoints
from alignclip_store.database import alembic_config, database_now, migrate, migrating, reading, transaction
from alignclip_store.errors import (
    DatasetRejected,
    FileInUse,
    FileNotFound,
    JobNotFound,
    JobNotReady,
    ModelInUse,
    RowNotFound,
)
from alignclip_store.events import list_events
from alignclip_store.files import create_file, delete_file
from alignclip_store.job_kinds import JobKind
from alignclip_store.jobs import get_job, list_jobs, list_metrics, list_runs, request_cancel
from alignclip_store.models import create_model, delete_model
from alignclip_store.pausing import request_pause, resume_job, retry_job
from alignclip_store.quotas import used_bytes
from alignclip_store.repeats import find_keyed_job, find_repeated_job
from alignclip_store.result_files import delete_result_file, get_result_file, result_files_of
from alignclip_store.retention import drop_expired, mark_ended_runs
from alignclip_store.runs import NewResultFile, finish, record_checkpoint, record_metrics, start_training
from alignclip_store.settings import Settings
from alignclip_store.speed import DEFAULT_IMAGES_PER_SECOND, measured_speed
from alignclip_store.tables import Delivery, Event, Job, Model, ResultFile, Run
from alignclip_store.waiting import view_queue
from alignclip_store.webhooks import create_webhook

KIND = {"kind": JobKind.CLASSIFICATION}
FILE = NewResultFile(artifact_uri="artifact:jobs/x/run-1/results.jsonl", num_bytes=700, sha256="0" * 64)
RESULT = {"num_images": 100, "num_by_label": {"cat": 100}, "accuracy": None}


@pytest.fixture
def new_classification(new_job: Callable[..., Job]) -> Callable[..., Job]:
    """Creates a queued classification of a hundred images; any field may be given."""

    def create(**fields: object) -> Job:
        return new_job(**KIND, config={"top_k": 5}, model_id="ft:starter:ada:pets:1", **fields)

    return create


@pytest.fixture
def finish_one(engine: Engine, claim: Callable[..., object]) -> Callable[[], None]:
    """Brings the oldest queued classification to its answers."""

    def finish_it() -> None:
        ours = claim()
        with transaction(engine) as session:
            start_training(session, ours)
            finish(session, ours, "succeeded", result=RESULT, result_file=FILE)

    return finish_it


def test_fine_tuning_calls_do_not_know_a_classification(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job]
) -> None:
    job, other = new_classification(), new_job()
    assert job.id.startswith("classify-")
    with transaction(engine) as session:
        assert [one.id for one in list_jobs(session, "ada")[0]] == [other.id]
        assert [one.id for one in list_jobs(session, "ada", **KIND)[0]] == [job.id]
        for call in (
            get_job, request_cancel, request_pause, resume_job, retry_job, list_events, list_runs, list_metrics,
            list_checkpoints,
        ):  # fmt: skip
            with pytest.raises(JobNotFound):
                call(session, "ada", job.id)
        with pytest.raises(JobNotFound):
            list_jobs(session, "ada", after=job.id)
        with pytest.raises(JobNotFound):
            get_job(session, "ada", other.id, **KIND)
        with pytest.raises(JobNotFound):
            get_job(session, "bob", job.id, **KIND)


def test_it_waits_in_the_same_queue_and_is_claimed_in_its_turn(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job], claim: Callable[..., object]
) -> None:
    ids = [new_job().id, new_classification().id, new_job().id]
    with reading(engine) as session:
        assert list(view_queue(session).places) == ids
    assert [claim().job_id for _ in range(3)] == ids


def test_it_ends_with_its_answers_in_one_transaction(
    engine: Engine, new_classification: Callable[..., Job], claim: Callable[..., object]
) -> None:
    job = new_classification()
    with reading(engine) as session, pytest.raises(JobNotReady):
        get_result_file(session, "ada", job.id)
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        record_metrics(session, ours, [{"step": 64, "kind": "classify", "values": {"images_per_second": 40.0}}])
    with reading(engine) as session:
        assert get_job(session, "ada", job.id, **KIND).step == 64
    with transaction(engine) as session:
        finish(session, ours, "succeeded", result=RESULT, result_file=FILE)
    with reading(engine) as session:
        done = get_job(session, "ada", job.id, **KIND)
        assert (done.status, done.result, done.model_id) == ("succeeded", RESULT, "ft:starter:ada:pets:1")
        file = get_result_file(session, "ada", job.id)
        assert (file.artifact_uri, file.sha256, file.owner) == (FILE.artifact_uri, FILE.sha256, "ada")
        assert list(result_files_of(session, [done])) == [job.id]
        messages = [event.message for event in list_events(session, "ada", job.id, **KIND)[0]]
        assert messages[-1] == f"Created classification: {job.id}"
        assert "Files validated. The classification has started." in messages
        with pytest.raises(JobNotFound):
            get_result_file(session, "bob", job.id)


@pytest.mark.parametrize("outcome", ["failed", "cancelled"])
def test_answers_belong_to_a_success(
    engine: Engine, new_classification: Callable[..., Job], claim: Callable[..., object], outcome: str
) -> None:
    new_classification()
    error = {"code": "x", "message": "x", "param": None} if outcome == "failed" else None
    ours = claim()
    with transaction(engine) as session, pytest.raises(ValueError, match="belongs to failed"):
        finish(session, ours, outcome, error=error, result_file=FILE)


def test_a_failed_one_can_be_tried_again(
    engine: Engine, new_classification: Callable[..., Job], claim: Callable[..., object]
) -> None:
    job = new_classification()
    ours = claim()
    with transaction(engine) as session:
        finish(session, ours, "failed", error={"code": "disk_full", "message": "Full.", "param": None})
    with transaction(engine) as session:
        assert retry_job(session, "ada", job.id, **KIND).status == "queued"


def test_speeds_are_told_apart(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job], claim: Callable[..., object]
) -> None:
    new_classification()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        record_metrics(session, ours, [{"step": 64, "kind": "classify", "values": {"images_per_second": 400.0}}])
    with reading(engine) as session:
        assert measured_speed(session, "starter").images_per_second == DEFAULT_IMAGES_PER_SECOND
        speed = measured_speed(session, "starter", JobKind.CLASSIFICATION)
        assert speed.seconds_per_step == pytest.approx(1 / 400)


def test_a_repeat_is_one_of_its_own_kind(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job]
) -> None:
    new_job(idempotency_key="key", request_sha256="1" * 64)
    with reading(engine) as session:
        assert find_keyed_job(session, "ada", JobKind.CLASSIFICATION, "key") is None
        assert find_repeated_job(session, "ada", JobKind.CLASSIFICATION, "1" * 64) is None
    job = new_classification(idempotency_key="key", request_sha256="1" * 64)
    with reading(engine) as session:
        assert find_keyed_job(session, "ada", JobKind.CLASSIFICATION, "key").id == job.id
        assert find_repeated_job(session, "ada", JobKind.FINE_TUNING, "1" * 64).id != job.id


def test_webhooks_are_told_under_its_own_name(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job]
) -> None:
    with transaction(engine) as session:
        wanted = ["classification.cancelled"]
        create_webhook(session, "ada", url="https://example.com", event_types=wanted)
    for job, kind in ((new_job(), JobKind.FINE_TUNING), (new_classification(), JobKind.CLASSIFICATION)):
        with transaction(engine) as session:
            request_cancel(session, "ada", job.id, kind=kind)
    with reading(engine) as session:
        assert [delivery.event_type for delivery in session.query(Delivery)] == wanted


def test_what_it_needs_stays_until_it_has_ended(
    engine: Engine, new_job: Callable[..., Job], new_classification: Callable[..., Job], make_settings
) -> None:
    fine_tuned = new_job(suffix="pets")
    with transaction(engine) as session:
        model = create_model(session, session.get_one(Job, fine_tuned.id), artifact_uri="artifact:m", manifest={})
        facts = {"filename": "a.zip", "purpose": "fine-tune", "num_bytes": 1, "sha256": "0" * 64}
        file = create_file(session, "ada", artifact_uri="artifact:f", **facts)
        request_cancel(session, "ada", fine_tuned.id)
    job = new_job(**KIND, config={}, model_id=model.id, training_file=file.id)
    with transaction(engine) as session:
        with pytest.raises(ModelInUse, match=job.id):
            delete_model(session, "ada", model.id)
        with pytest.raises(FileInUse):
            delete_file(session, "ada", file.id)
        long_ago = database_now(session) - timedelta(days=100)
        session.execute(update(Model).values(created_at=long_ago))
    old: Settings = make_settings(keep_models_days=1, keep_files_days=1000)
    with transaction(engine) as session:
        assert drop_expired(session, old) == []
        request_cancel(session, "ada", job.id, **KIND)
        delete_file(session, "ada", file.id)
        with pytest.raises(DatasetRejected) as refused:
            retry_job(session, "ada", job.id, **KIND)
        assert refused.value.param == "dataset"
        assert drop_expired(session, old) == ["artifact:m"]


def test_a_file_that_is_gone_is_named_by_its_field(new_job: Callable[..., Job]) -> None:
    with pytest.raises(FileNotFound) as refused:
        new_job(**KIND, training_file="file-gone")
    assert refused.value.param == "dataset"


def test_answers_count_as_stored_and_go_by_call_and_by_age(
    engine: Engine, new_classification: Callable[..., Job], finish_one: Callable[[], None], make_settings
) -> None:
    ids = [new_classification().id for _ in range(2)]
    for _ in ids:
        finish_one()
    with transaction(engine) as session:
        assert used_bytes(session, "ada") == 1400
        assert delete_result_file(session, "ada", ids[0]).artifact_uri == FILE.artifact_uri
        assert used_bytes(session, "ada") == 700
        with pytest.raises(RowNotFound, match="deleted"):
            get_result_file(session, "ada", ids[0])
        session.execute(update(ResultFile).values(created_at=database_now(session) - timedelta(days=8)))
    with transaction(engine) as session:
        assert drop_expired(session, make_settings(keep_results_days=9)) == []
        assert drop_expired(session, make_settings(keep_results_days=7)) == [FILE.artifact_uri]


def test_resume_points_of_a_success_go_and_those_of_others_stay(
    engine: Engine, new_classification: Callable[..., Job], claim: Callable[..., object], settings: Settings
) -> None:
    job = new_classification()
    ours = claim()
    with transaction(engine) as session:
        start_training(session, ours)
        record_checkpoint(session, ours, step=64, artifact_uri="artifact:c", metrics={})
    with transaction(engine) as session:
        assert drop_expired(session, settings) == []
        finish(session, ours, "succeeded", result=RESULT, result_file=FILE)
    with transaction(engine) as session:
        assert drop_expired(session, settings) == ["artifact:c"]
        assert all_checkpoints(session, job.id) == []


def test_what_a_lost_run_stored_is_found_under_its_fence(
    engine: Engine, new_classification: Callable[..., Job], claim: Callable[..., object]
) -> None:
    job = new_classification()
    ours = claim()
    with transaction(engine) as session:
        finish(session, ours, "failed", error={"code": "x", "message": "x", "param": None})
        session.execute(update(Run).values(ended_at=database_now(session) - timedelta(hours=2)))
    with transaction(engine) as session:
        prefix = f"jobs/{job.id}/run-1"
        assert mark_ended_runs(session) == [(f"{prefix}/checkpoints", f"{prefix}/results.jsonl")]


def test_an_earlier_schema_has_fine_tuning_jobs_alone(
    engine: Engine,
    new_job: Callable[..., Job],
    new_classification: Callable[..., Job],
    finish_one: Callable[[], None],
    database_url: str,
    make_settings: Callable[..., Settings],
) -> None:
    new_classification()
    finish_one()
    kept = new_job().id
    engine.dispose()
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0009")
    migrate(make_settings(database_url=database_url))
    with reading(engine) as session:
        assert [(job.id, job.kind) for job in session.scalars(select(Job))] == [(kept, "fine_tuning")]
        assert set(session.scalars(select(Event.job_id))) == {kept}
        assert not session.scalars(select(Run)).all()
        assert not session.scalars(select(ResultFile)).all()
