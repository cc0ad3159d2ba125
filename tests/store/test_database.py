"""Transactions, the clock, and migrations on both databases."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import IntegrityError

from alignclip_store.database import (
    alembic_config,
    create_engine,
    database_now,
    migrate,
    migrating,
    reading,
    schema_state,
    transaction,
)
from alignclip_store.database import (
    database_url as normalised,
)
from alignclip_store.errors import SchemaNewer
from alignclip_store.jobs import get_job
from alignclip_store.runs import WorkerIdentity, claim_next
from alignclip_store.settings import Settings
from alignclip_store.tables import Base, Checkpoint, Event, File, Model, Run


def _file(file_id: str) -> File:
    return File(
        id=file_id,
        owner="ada",
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        filename="pets.zip",
        purpose="fine-tune",
        num_bytes=2**40,
        sha256="0" * 64,
        artifact_uri="artifact:files/a",
    )


def test_a_transaction_commits_at_its_end_and_its_rows_stay_readable(engine: Engine) -> None:
    with transaction(engine) as session:
        file = _file("file-1")
        session.add(file)
    assert (file.id, file.num_bytes) == ("file-1", 2**40)
    with reading(engine) as session:
        assert session.scalars(select(File.id)).all() == ["file-1"]


def test_a_transaction_that_raises_leaves_nothing(engine: Engine) -> None:
    def add_and_fail() -> None:
        with transaction(engine) as session:
            session.add(_file("file-1"))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        add_and_fail()
    with reading(engine) as session:
        assert session.scalars(select(File)).all() == []


def test_what_a_reading_session_changes_is_not_kept(engine: Engine) -> None:
    with reading(engine) as session:
        session.add(_file("file-1"))
        session.flush()
    with reading(engine) as session:
        assert session.scalars(select(File)).all() == []


def test_times_come_back_aware_and_in_utc(engine: Engine) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    with transaction(engine) as session:
        file = _file("file-1")
        file.created_at = file.created_at.astimezone(zone)
        session.add(file)
    with reading(engine) as session:
        created_at = session.scalars(select(File.created_at)).one()
    assert created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert created_at.utcoffset() == timedelta(0)


def test_a_time_without_zone_is_refused(engine: Engine) -> None:
    file = _file("file-1")
    file.created_at = datetime(2026, 1, 2)  # noqa: DTZ001
    with pytest.raises(Exception, match="no time zone"), transaction(engine) as session:
        session.add(file)


def test_the_database_clock_goes_forward_within_a_transaction(engine: Engine) -> None:
    with reading(engine) as session:
        first, second = database_now(session), database_now(session)
    assert second > first
    assert first.utcoffset() == timedelta(0)


def test_a_transaction_that_waited_for_the_lock_has_a_time_from_after_it(tmp_path: Path) -> None:
    """So that what one after the other wrote is dated one after the other."""
    settings = Settings(database_url=f"sqlite:///{tmp_path}/locked.db")
    migrate(settings)
    engine, begun, times = create_engine(settings), threading.Event(), []

    def wait() -> None:
        with transaction(engine) as session:
            begun.set()
            times.append(database_now(session))

    waiting = threading.Thread(target=wait)
    with transaction(engine) as session:
        session.execute(select(File.id))
        waiting.start()
        assert begun.wait(60)
        time.sleep(0.2)  # in which it would have looked at the clock
        before = database_now(session)
    waiting.join(60)
    engine.dispose()
    assert times[0] >= before


def test_text_that_postgresql_cannot_hold_is_stored_without_the_offending_characters(engine: Engine) -> None:
    with transaction(engine) as session:
        file = _file("file-1")
        file.filename = "a\0b\ud800c\U0001f408.zip"
        session.add(file)
    with reading(engine) as session:
        assert session.scalars(select(File.filename)).one() == "a\ufffdb\ufffdc\U0001f408.zip"


def test_a_row_that_refers_to_nothing_is_refused(engine: Engine) -> None:
    event = Event(owner="ada", job_id="ftjob-none", level="info", type="message", message="", data=None)
    event.created_at = datetime.now(UTC)
    with pytest.raises(IntegrityError), transaction(engine) as session:
        session.add(event)


def test_two_transactions_that_read_and_then_write_take_turns(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(_file("file-1"))

    def add_bytes() -> None:
        for _ in range(20):
            with transaction(engine) as session:
                file = session.scalars(select(File).with_for_update()).one()
                file.num_bytes += 1

    threads = [threading.Thread(target=add_bytes) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as session:
        assert session.scalars(select(File.num_bytes)).one() == 2**40 + 80


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_engine(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], tmp_path: Path
) -> Iterator[Engine]:
    """A database without any table."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/sub/folder/empty.db"
    else:
        url = request.getfixturevalue("new_postgres_database")()
    engine = create_engine(Settings(database_url=url))
    yield engine
    engine.dispose()


def _settings_of(engine: Engine) -> Settings:
    return Settings(database_url=engine.url.render_as_string(hide_password=False))


def test_migrations_go_up_down_and_up_again(empty_engine: Engine) -> None:
    assert schema_state(empty_engine) == "empty"
    migrate(_settings_of(empty_engine))
    assert schema_state(empty_engine) == "current"
    tables = set(inspect(empty_engine).get_table_names())
    assert tables == {*Base.metadata.tables, "alembic_version"}
    with migrating(empty_engine) as connection:
        command.downgrade(alembic_config(connection), "base")
    assert inspect(empty_engine).get_table_names() == ["alembic_version"]
    migrate(_settings_of(empty_engine))
    assert set(inspect(empty_engine).get_table_names()) == tables


def test_the_migrated_schema_is_that_of_the_tables(engine: Engine) -> None:
    with migrating(engine) as connection:
        command.check(alembic_config(connection))  # raises when a revision is missing


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    with transaction(engine) as session:
        session.add(_file("file-1"))
    migrate(_settings_of(engine))
    with reading(engine) as session:
        assert session.scalars(select(File.id)).all() == ["file-1"]


def test_processes_that_start_together_migrate_once(empty_engine: Engine) -> None:
    program = "from alignclip_store import database, settings; database.migrate(settings.Settings())"
    environment = os.environ | {"ALIGNCLIP_DATABASE_URL": empty_engine.url.render_as_string(hide_password=False)}
    processes = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert schema_state(empty_engine) == "current"


def test_a_schema_of_a_later_version_is_told_apart(empty_engine: Engine) -> None:
    migrate(_settings_of(empty_engine))
    with empty_engine.execution_options(immediate=True).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert schema_state(empty_engine) == "newer"


def test_a_failing_migration_leaves_the_schema_as_it_was(empty_engine: Engine) -> None:
    def migrate_and_fail() -> None:
        with migrating(empty_engine) as connection:
            command.upgrade(alembic_config(connection), "head")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        migrate_and_fail()
    assert inspect(empty_engine).get_table_names() == []


@pytest.mark.parametrize(
    "location", ["postgres://ada@host/db", "postgresql://ada@host/db", "postgresql+psycopg2://ada@host/db"]
)
def test_every_way_to_write_postgresql_takes_the_same_driver(location: str) -> None:
    assert normalised(location).render_as_string() == "postgresql+psycopg://ada@host/db"


@pytest.mark.parametrize("location", ["mysql://ada:secret@host/db", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused_without_telling_the_password(location: str) -> None:
    with pytest.raises(ValueError, match=r"wanted sqlite:////absolute") as caught:
        normalised(location)
    assert "secret" not in str(caught.value)


JOB_OF_THE_FIRST_SCHEMA = """
INSERT INTO similarities (id, owner, created_at, cache_key, sha256, base_model, num_classes, artifact_uri)
VALUES ('sim-1', 'ada', '2026-01-02 03:04:05', 'key', 'sha', 'starter', 3, 'artifact:s');
INSERT INTO jobs (id, owner, created_at, status, phase, base_model, config, request, training_file, metadata,
                  similarity_id, num_steps, step, fence, num_lost_runs)
VALUES ('ftjob-1', 'ada', '2026-01-02 03:04:05', 'queued', 'queued', 'starter', '{"num_steps": 7}', '{}', '/data/pets',
        '{}', 'sim-1', 7, 0, 1, 0);
INSERT INTO runs (id, owner, job_id, fence, worker, host, device, started_at, ended_at, outcome)
VALUES ('run-1', 'ada', 'ftjob-1', 1, 'w/1', 'h', 'cpu', '2026-01-02 03:04:05', '2026-01-02 04:04:05', 'stopped');
INSERT INTO checkpoints (id, owner, job_id, created_at, step, artifact_uri, metrics)
VALUES ('ckpt-1', 'ada', 'ftjob-1', '2026-01-02 03:04:05', 5, 'artifact:c', '{"train_loss": 0.5}');
INSERT INTO models (id, owner, job_id, created_at, base_model, artifact_uri, manifest)
VALUES ('ft:starter:ada::1', 'ada', 'ftjob-1', '2026-01-02 03:04:05', 'starter', 'artifact:m', '{}');
INSERT INTO events (owner, job_id, created_at, level, type, message)
VALUES ('ada', 'ftjob-1', '2026-01-02 03:04:05', 'info', 'message', 'Created');
"""


def test_an_upgrade_keeps_the_jobs_of_the_first_schema(
    database_url: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(database_url=database_url)
    engine = create_engine(settings)
    with migrating(engine) as connection:
        command.downgrade(alembic_config(connection), "0001")
        for statement in filter(str.strip, JOB_OF_THE_FIRST_SCHEMA.split(";")):
            connection.exec_driver_sql(statement)
    assert schema_state(engine) == "older"
    migrate(settings)
    assert schema_state(engine) == "current"
    with reading(engine) as session:
        job = get_job(session, "ada", "ftjob-1")
        run, checkpoint, model = (session.scalars(select(table)).one() for table in (Run, Checkpoint, Model))
        assert session.scalars(select(Event.message)).all() == ["Created"]
    assert (job.status, job.config, job.priority, job.pause_requested_at) == ("queued", {"num_steps": 7}, 0, None)
    assert (run.outcome, run.num_devices, run.swept_at) == ("stopped", 1, None)
    assert (checkpoint.step, checkpoint.num_bytes, model.num_bytes) == (5, 0, 0)
    with transaction(engine) as session:
        claim = claim_next(session, WorkerIdentity(name="w", host="h", device="cpu"), 60)
    assert claim is not None, "the job goes on under the new version"
    engine.dispose()


def test_a_schema_of_a_later_version_is_refused_in_words(
    database_url: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(database_url=database_url)
    engine = create_engine(settings)
    with migrating(engine) as connection:
        present = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        assert schema_state(engine) == "newer"
        with pytest.raises(SchemaNewer, match="later version"):
            migrate(settings)
    finally:
        with migrating(engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :present"), {"present": present})
        engine.dispose()
