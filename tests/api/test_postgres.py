"""The same API on PostgreSQL: what differs there is JSON, its order of keys and its filters."""

from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from alignclip_store.database import migrate, transaction
from alignclip_store.models import delete_model
from alignclip_store.settings import Settings
from tests.api.conftest import OWNER


@pytest.fixture(scope="module")
def service(start_service, new_postgres_database):
    url = new_postgres_database()
    migrate(Settings(database_url=url))
    return start_service(database_url=url)


def test_job_lives_through_create_filter_cancel_and_finish(service, create_job, picture):
    wanted = create_job(metadata={"test": "postgres", "k": 'a"b'}, extra_body={"num_steps": 2, "similarity_scale": 35})
    other = create_job()
    jobs = service.openai.fine_tuning.jobs
    assert [job.id for job in jobs.list(metadata={"k": 'a"b'})] == [wanted.id]
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [other.id]
    assert jobs.cancel(other.id).status == "cancelled"
    matrix = service.http.get(wanted.similarity["url"]).json()
    assert matrix["class_names"] == list(jobs.retrieve(wanted.id).class_names.values())
    model = service.finish(wanted.id)
    own = service.http.post(f"/v1/models/{model}/classify", files={"image": picture}).json()["data"][0]["predictions"]
    assert {best["label"] for best in own} == {"cat", "dog", "red_panda"}
    assert len(list(jobs.list_events(wanted.id, limit=2))) >= 3


def test_alias_waits_for_a_deletion_that_began_before_it(service, create_job):
    model = service.finish(create_job(extra_body={"num_steps": 2}).id)
    with ThreadPoolExecutor(1) as pool:
        with transaction(service.engine) as session:
            delete_model(session, OWNER, model)
            setting = pool.submit(service.http.put, "/v1/aliases/production", json={"model": model})
            assert not wait([setting], timeout=1).done
        assert setting.result().status_code == 404
    assert service.http.get("/v1/aliases").json()["data"] == []


def test_second_try_gets_the_first_job(service, file_id):
    body = {"model": "tiny", "training_file": file_id, "num_steps": 2}

    def post(count):
        return service.http.post("/v1/fine_tuning/jobs", json=body, headers={"x-stainless-retry-count": count}).json()

    assert post("0")["id"] == post("1")["id"]


def test_readiness_sees_the_schema(service):
    assert service.http.get("/readyz").json()["db_schema"] == "current"
