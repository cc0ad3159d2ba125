"""Files, models and similarity matrices: rows of one owner."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from alignclip_store.database import reading, transaction
from alignclip_store.errors import FileInUse, FileNotFound, ModelNotFound, SimilarityNotFound
from alignclip_store.files import create_file, delete_file, get_file, list_files
from alignclip_store.jobs import request_cancel
from alignclip_store.models import delete_model, get_model, list_models
from alignclip_store.runs import Claim, NewModel, finish, start_training
from alignclip_store.similarities import create_similarity, find_similarity, get_similarity
from alignclip_store.tables import File, Job, Similarity


@pytest.fixture
def new_file(engine: Engine) -> Callable[..., File]:
    """Creates a file row; any field may be given."""

    def create(*, owner: str = "ada", **fields: Any) -> File:
        values = {
            "filename": "pets.zip",
            "purpose": "fine-tune",
            "num_bytes": 3,
            "sha256": "0" * 64,
            "artifact_uri": "artifact:files/a",
        }
        with transaction(engine) as session:
            return create_file(session, owner, **(values | fields))

    return create


def test_a_file_is_its_owners_alone(engine: Engine, new_file: Callable[..., File]) -> None:
    file = new_file()
    with reading(engine) as session:
        assert get_file(session, "ada", file.id).filename == "pets.zip"
        assert list_files(session, "eve") == ([], False)
        with pytest.raises(FileNotFound):
            get_file(session, "eve", file.id)
        with pytest.raises(FileNotFound):
            list_files(session, "eve", after=file.id)
        with pytest.raises(FileNotFound):
            delete_file(session, "eve", file.id)


def test_files_are_listed_in_either_order_and_by_purpose(engine: Engine, new_file: Callable[..., File]) -> None:
    ids = [new_file(purpose=purpose).id for purpose in ("fine-tune", "vision", "fine-tune", "fine-tune")]
    with reading(engine) as session:
        newest, has_more = list_files(session, "ada", limit=3)
        oldest, _ = list_files(session, "ada", newest_first=False, after=ids[0])
        vision, _ = list_files(session, "ada", purpose="vision")
    assert [file.id for file in newest] == ids[:0:-1]
    assert has_more
    assert [file.id for file in oldest] == ids[1:]
    assert [file.id for file in vision] == [ids[1]]


@pytest.mark.parametrize("field", ["training_file", "validation_file", "test_datasets"])
def test_a_file_is_kept_as_long_as_a_job_needs_it(
    engine: Engine, new_file: Callable[..., File], new_job: Callable[..., Job], field: str
) -> None:
    file, other = new_file(), new_file()
    tests = [{"name": name, "dataset": each.id, "class_names": None} for name, each in (("a", other), ("b", file))]
    job = new_job(**{field: tests if field == "test_datasets" else file.id})
    with pytest.raises(FileInUse, match=job.id), transaction(engine) as session:
        delete_file(session, "ada", file.id)
    with transaction(engine) as session:
        request_cancel(session, "ada", job.id)
    with transaction(engine) as session:
        assert delete_file(session, "ada", file.id).artifact_uri == "artifact:files/a"
    with pytest.raises(FileNotFound), reading(engine) as session:
        get_file(session, "ada", file.id)


def test_creating_a_job_and_deleting_its_file_at_once_has_one_winner(
    engine: Engine, new_file: Callable[..., File], new_job: Callable[..., Job]
) -> None:
    def delete(file_id: str) -> object:
        with transaction(engine) as session:
            return delete_file(session, "ada", file_id)

    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            file = new_file()
            attempts = [pool.submit(new_job, training_file=file.id), pool.submit(delete, file.id)]
            faults = [type(attempt.exception()) for attempt in attempts]
            assert faults in ([type(None), FileInUse], [FileNotFound, type(None)])


def test_a_similarity_matrix_is_stored_once_per_owner_and_input(engine: Engine) -> None:
    def create(owner: str, uri: str) -> Similarity:
        with transaction(engine) as session:
            return create_similarity(
                session, owner, cache_key="key", sha256="1" * 64, base_model="starter", num_classes=2, artifact_uri=uri
            )

    with ThreadPoolExecutor(4) as pool:
        similarities = list(pool.map(lambda n: create("ada", f"artifact:{n}"), range(8)))
    assert len({similarity.id for similarity in similarities}) == 1
    assert create("eve", "artifact:e").id != similarities[0].id
    with reading(engine) as session:
        assert find_similarity(session, "ada", "key").id == similarities[0].id
        assert find_similarity(session, "ada", "other") is None
        assert get_similarity(session, "ada", similarities[0].id).num_classes == 2
        assert session.scalar(select(func.count()).select_from(Similarity)) == 2
        with pytest.raises(SimilarityNotFound):
            get_similarity(session, "eve", similarities[0].id)


def test_a_model_is_listed_read_and_deleted_by_its_owner_alone(
    engine: Engine, new_job: Callable[..., Job], claim: Callable[..., Claim]
) -> None:
    ids = []
    for _ in range(2):
        new_job()
        ours = claim()
        with transaction(engine) as session:
            start_training(session, ours)
            model = NewModel(artifact_uri="artifact:m", manifest={"step": 100})
            ids.append(finish(session, ours, "succeeded", result={}, model=model).model_id)
    with reading(engine) as session:
        assert [model.id for model in list_models(session, "ada")] == ids[::-1]
        assert list_models(session, "eve") == []
        for attempt in (get_model, delete_model):
            with pytest.raises(ModelNotFound):
                attempt(session, "eve", ids[0])
    with transaction(engine) as session:
        assert delete_model(session, "ada", ids[0]).artifact_uri == "artifact:m"
    with reading(engine) as session:
        assert [model.id for model in list_models(session, "ada")] == [ids[1]]
