"""The audit log cannot be altered; limits of one owner do not hold up another; keys are proved by the pepper."""

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from alignclip_store import keys
from alignclip_store.audit import Actor, list_entries, record_change
from alignclip_store.database import reading, transaction
from alignclip_store.errors import QuotaExceeded
from alignclip_store.limits import require_room_in_queue
from alignclip_store.runs import WorkerIdentity, claim_next
from alignclip_store.settings import Settings, bootstrap_api_key, key_pepper
from alignclip_store.tables import Job

ACTOR = Actor(key_id="key-1", owner="ada", request_id="req-1")
WORKER = WorkerIdentity(name="w", host="h", device="cpu")


@pytest.mark.parametrize(
    "statement",
    ["UPDATE audit_log SET action = 'nothing'", "DELETE FROM audit_log", "DELETE FROM audit_log WHERE id = 1"],
)
def test_database_refuses_to_alter_the_audit_log(engine: Engine, statement: str) -> None:
    with transaction(engine) as session:
        record_change(session, ACTOR, "job.create", "ftjob-1")
    with pytest.raises(DBAPIError, match="append-only"), transaction(engine) as session:
        session.execute(text(statement))
    with reading(engine) as session:
        assert [entry.action for entry in list_entries(session, "ada")[0]] == ["job.create"]


def test_entry_of_a_change_that_did_not_happen_does_not_stay(engine: Engine) -> None:
    def change_and_fail() -> None:
        with transaction(engine) as session:
            record_change(session, ACTOR, "job.create", "ftjob-1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    with reading(engine) as session:
        assert list_entries(session, None) == ([], False)


def test_owner_with_enough_at_work_is_passed_over(engine: Engine, new_job: Callable[..., Job]) -> None:
    first, second, other = new_job(), new_job(), new_job(owner="bob")
    claimed = []
    for _ in range(3):
        with transaction(engine) as session:
            claim = claim_next(session, WORKER, 60, max_running_jobs=1)
        claimed.append(claim.job_id if claim else None)
    assert claimed == [first.id, other.id, None]
    with transaction(engine) as session:
        assert claim_next(session, WORKER, 60, max_running_jobs=2).job_id == second.id


def test_claims_at_one_time_do_not_pass_the_limit_together(engine: Engine, new_job: Callable[..., Job]) -> None:
    for _ in range(12):
        new_job()
    claims = []
    together = threading.Barrier(12)

    def claim() -> None:
        with reading(engine) as session:
            session.execute(text("SELECT 1"))  # connected
            together.wait(120)
        with transaction(engine) as session:
            claims.append(claim_next(session, WORKER, 60, max_running_jobs=2))

    threads = [threading.Thread(target=claim) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(claim is not None for claim in claims) == 2


def test_full_queue_of_one_owner_is_not_anothers(engine: Engine, new_job: Callable[..., Job]) -> None:
    new_job()
    settings = Settings(max_queued_jobs=1)
    with transaction(engine) as session:
        require_room_in_queue(session, "bob", settings)
        with pytest.raises(QuotaExceeded, match="1 jobs wait"):
            require_room_in_queue(session, "ada", settings)


def test_key_is_proved_by_its_whole_text_under_the_pepper(engine: Engine) -> None:
    with transaction(engine) as session:
        row, key = keys.create_key(session, ACTOR, b"pepper", owner="ada", name="a", scopes=["train", "infer"])
    with reading(engine) as session:
        assert keys.find_key(session, b"pepper", key).id == row.id
        assert row.scopes == ["infer", "train"]
        for pepper, given in ((b"other", key), (b"pepper", key + "x"), (b"pepper", key[:-1]), (b"pepper", row.prefix)):
            assert keys.find_key(session, pepper, given) is None


def test_processes_that_start_together_share_one_secret(settings: Settings) -> None:
    found: list[tuple[bytes, str]] = []
    threads = [
        threading.Thread(target=lambda: found.append((key_pepper(settings), bootstrap_api_key(settings)[0])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert settings.pepper_file.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in settings.home_dir.iterdir()) == ["api_key", "pepper"]
