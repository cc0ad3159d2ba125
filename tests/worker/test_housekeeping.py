"""What is deleted by age, and what is kept."""

import os
import time
from datetime import timedelta

from sqlalchemy import select, update

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import database_now, reading, transaction
from alignclip_store.jobs import request_cancel
from alignclip_store.retention import model_key, run_prefix
from alignclip_store.runs import (
    NewModel,
    WorkerIdentity,
    claim_next,
    finish,
    reap,
    record_checkpoint,
    start_training,
)
from alignclip_store.tables import Checkpoint, File, Job, Model, Run
from worker.housekeeping import keep_house

AGES = {"keep_files_days": 30, "keep_checkpoints_days": 7, "keep_models_days": 60}


def put(service, key):
    local = service.settings.home_dir / "content"
    local.write_bytes(b"content")
    return service.artifacts.put_file(local, key)


def finished_job(service, archive):
    """A job with a file, a checkpoint and a model, whose files are in the store."""
    job_id = service.submit(archive, wakes=False)
    with transaction(service.engine) as session:
        claim = claim_next(session, WorkerIdentity(name="w", host="h", device="cpu"), 60)
        start_training(session, claim)
        uri = put(service, f"jobs/{job_id}/checkpoint")
        record_checkpoint(session, claim, step=1, artifact_uri=uri, metrics={})
        model = NewModel(artifact_uri=put(service, f"models/{job_id}"), manifest={})
        finish(session, claim, "succeeded", result={}, model=model)
    return job_id


def make_older(service, days):
    with transaction(service.engine) as session:
        then = database_now(session) - timedelta(days=days)
        session.execute(update(File).values(created_at=then))
        session.execute(update(Model).values(created_at=then))
        session.execute(update(Job).where(Job.finished_at.is_not(None)).values(finished_at=then))


def kept(service):
    """Numbers of rows of each kind; each must have its content."""
    with reading(service.engine) as session:
        uris = {table: session.scalars(select(table.artifact_uri)).all() for table in (File, Checkpoint, Model)}
    for each in uris.values():
        for uri in each:
            service.artifacts.open(uri).close()
    return [len(each) for each in uris.values()]


def stored_files(service):
    root = service.settings.home_dir / "artifacts"
    return [path for path in root.rglob("*") if path.is_file() and "similarities" not in path.parts]


def test_each_kind_goes_at_its_age_with_its_content(make_service, archive):
    service = make_service(**AGES)
    finished_job(service, archive)
    for days, expected in ((6, [1, 1, 1]), (8, [1, 0, 1]), (31, [0, 0, 1]), (61, [0, 0, 0])):
        make_older(service, days)
        keep_house(service.engine, service.artifacts, service.settings)
        assert kept(service) == expected
        assert len(stored_files(service)) == sum(expected)


def test_nothing_goes_by_default(service, archive):
    finished_job(service, archive)
    make_older(service, 10_000)
    assert keep_house(service.engine, service.artifacts, service.settings) == 0
    assert kept(service) == [1, 1, 1]


def test_a_file_that_an_unfinished_job_needs_stays(make_service, archive):
    service = make_service(**AGES)
    job_id = service.submit(archive, wakes=False)
    make_older(service, 10_000)
    keep_house(service.engine, service.artifacts, service.settings)
    assert kept(service) == [1, 0, 0]
    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id)
    keep_house(service.engine, service.artifacts, service.settings)
    assert kept(service) == [0, 0, 0]


def test_what_a_killed_run_stored_without_a_row_goes_once_its_worker_cannot_wake_any_more(service, archive):
    job_id = service.submit(archive, wakes=False)
    with transaction(service.engine) as session:
        claim = claim_next(session, WorkerIdentity(name="w", host="h", device="cpu"), 60)
        job = session.get_one(Job, job_id)
        key, prefix = model_key(job, claim.fence), run_prefix(job_id, claim.fence)
    named = put(service, f"{prefix}/checkpoints/step-000001")
    unnamed = [put(service, f"{prefix}/checkpoints/step-000002"), put(service, f"{key}/weights.safetensors")]
    log = put(service, f"{prefix}/trainer.log")
    with transaction(service.engine) as session:
        record_checkpoint(session, claim, step=1, artifact_uri=named, metrics={})
        session.execute(update(Job).values(lease_until=database_now(session) - timedelta(seconds=1)))
        assert reap(session, service.settings) == [job_id]
    assert keep_house(service.engine, service.artifacts, service.settings) == 0
    assert all(service.artifacts.exists(uri) for uri in [named, log, *unnamed])
    with transaction(service.engine) as session:
        session.execute(update(Run).values(ended_at=database_now(session) - timedelta(hours=2)))
    assert keep_house(service.engine, service.artifacts, service.settings) == 2
    assert [service.artifacts.exists(uri) for uri in [named, log, *unnamed]] == [True, True, False, False]
    with reading(service.engine) as session:
        assert session.scalars(select(Run.swept_at)).one() is not None


def test_what_a_killed_writer_left_goes_after_a_day_and_what_is_being_written_stays(service, tmp_path):
    root = tmp_path / "store"
    store = ArtifactStore(str(root))
    (tmp_path / "whole").write_bytes(b"whole")
    uri = store.put_file(tmp_path / "whole", "files/whole")
    folder = root / "models" / ".model.0123456789abcdef.part"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"half")
    old, new = root / "files" / ".old.0123456789abcdef.part", root / "files" / ".new.0123456789abcdef.part"
    for path in (old, new):
        path.write_bytes(b"half")
    two_days_ago = time.time() - 2 * 24 * 3600
    for path in (old, folder, root / "files" / "whole"):
        os.utime(path, (two_days_ago, two_days_ago))
    assert store.sweep_leftovers(24 * 3600) == 2
    assert not old.exists()
    assert not folder.exists()
    assert new.exists()
    store.open(uri).close()
