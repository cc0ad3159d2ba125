"""Aliases over HTTP: they stand for a model, move at once, and leave a trace."""

import pytest


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), extra_body={"num_steps": 2}
    )
    return service.finish(job.id)


@pytest.fixture
def alias(http, tuned):
    """A name that points to the tuned model."""
    answer = http.put("/v1/aliases/candidate", json={"model": tuned})
    assert answer.status_code == 200, answer.text
    yield "candidate"
    http.delete("/v1/aliases/candidate")


def test_alias_answers_as_its_model(http, alias, tuned, picture):
    named = http.post(f"/v1/models/{alias}/classify", files={"image": picture}).json()
    assert named == http.post(f"/v1/models/{tuned}/classify", files={"image": picture}).json()
    assert named["model"] == tuned  # it says which one answered
    assert http.get(f"/v1/models/{alias}").json()["id"] == tuned
    assert http.get(f"/v1/models/{alias}/classify/info").json()["id"] == tuned
    assert http.get(f"/v1/models/{alias}/export", params={"format": "open_clip"}).status_code == 200


def test_moved_alias_answers_as_the_other_model(http, alias, tuned, picture):
    form = {"files": {"image": picture}, "data": {"labels": ["cat", "dog"]}}
    before = http.post(f"/v1/models/{alias}/classify", **form).json()
    assert http.put(f"/v1/aliases/{alias}", json={"model": "tiny"}).json()["model"] == "tiny"
    after = http.post(f"/v1/models/{alias}/classify", **form).json()
    assert (before["model"], after["model"]) == (tuned, "tiny")
    assert after == http.post("/v1/models/tiny/classify", **form).json()
    entry = http.get("/v1/audit_log", params={"object_id": alias}).json()["data"][0]
    assert (entry["action"], entry["before"], entry["after"]) == ("alias.set", {"model": tuned}, {"model": "tiny"})


def test_alias_of_an_alias_points_to_its_model_and_does_not_follow_it(http, alias, tuned):
    assert http.put("/v1/aliases/production", json={"model": alias}).json()["model"] == tuned
    http.put(f"/v1/aliases/{alias}", json={"model": "tiny"})
    assert http.get("/v1/aliases/production").json()["model"] == tuned
    assert http.delete("/v1/aliases/production").status_code == 200


def test_model_behind_an_alias_cannot_be_deleted(http, alias, tuned):
    error = http.delete(f"/v1/models/{tuned}").json()["error"]
    assert (error["code"], alias in error["message"]) == ("model_in_use", True)
    assert http.get("/v1/aliases").json()["data"][0]["id"] == alias
    assert http.delete(f"/v1/aliases/{alias}").json() == {"id": alias, "object": "alias", "deleted": True}
    assert http.get(f"/v1/aliases/{alias}").status_code == 404
    assert http.post(f"/v1/models/{alias}/classify", content=b"x").status_code == 404


@pytest.mark.parametrize(
    ("name", "model", "param"),
    [
        ("starter", "tiny", "name"),
        ("vit-b-32-openai", "tiny", "name"),
        ("a:b", "tiny", "name"),
        ("production", "ft:nothing", "model"),
        ("production", "", "model"),
    ],
)
def test_alias_that_cannot_be_is_refused_by_name(http, name, model, param):
    answer = http.put(f"/v1/aliases/{name}", json={"model": model})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param, answer.text
