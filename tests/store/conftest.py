"""Jobs to act on, and workers that claim them."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine

from alignclip_store.database import reading, transaction
from alignclip_store.jobs import create_job, get_job
from alignclip_store.runs import Claim, WorkerIdentity, claim_next
from alignclip_store.similarities import create_similarity
from alignclip_store.tables import Job

OWNER = "ada"


@pytest.fixture
def new_job(engine: Engine) -> Callable[..., Job]:
    """Creates a queued job; any field may be given."""

    def create(*, owner: str = OWNER, **fields: Any) -> Job:
        with transaction(engine) as session:
            similarity = create_similarity(
                session,
                owner,
                cache_key="key",
                sha256="0" * 64,
                base_model="starter",
                num_classes=3,
                artifact_uri="artifact:similarities/key",
            )
            values = {
                "config": {"num_steps": 100},
                "request": {"model": "starter"},
                "training_file": "/data/pets",
                "validation_file": None,
                "suffix": None,
                "labels": {},
                "similarity_id": similarity.id,
                "num_steps": 100,
                "base_model": "starter",
            }
            return create_job(session, owner, **(values | fields))

    return create


@pytest.fixture
def claim(engine: Engine) -> Callable[..., Claim]:
    """Claims the oldest queued job, for `lease_seconds`."""

    def claim_it(lease_seconds: float = 60.0, name: str = "worker-1") -> Claim:
        identity = WorkerIdentity(name=name, host="host", device="cpu")
        with transaction(engine) as session:
            claim = claim_next(session, identity, lease_seconds)
        assert claim is not None
        return claim

    return claim_it


@pytest.fixture
def read_job(engine: Engine) -> Callable[[str], Job]:
    """Reads the job anew."""

    def read(job_id: str) -> Job:
        with reading(engine) as session:
            return get_job(session, OWNER, job_id)

    return read
