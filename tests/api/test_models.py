"""Base and tuned models through the official client."""

import pytest
from openai import BadRequestError, NotFoundError


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model of a job with display names and an unseen class."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny",
        training_file=service.upload(archive),
        suffix="listed",
        extra_body={"num_steps": 2, "unseen_classes": ["dog"], "class_names": {"red_panda": "lesser panda"}},
    )
    return service.finish(job.id, {"headline": {}})


def test_list_holds_local_base_models_and_tuned_ones(openai, tuned):
    listed = openai.models.list()
    ids = [model.id for model in listed]
    assert {"starter", "tiny", tuned} <= set(ids)
    assert "vit-b-16-openai" not in ids  # known, but its files are not here
    assert ids.index("starter") < ids.index(tuned)


def test_tuned_model_says_what_it_was_made_of(openai, tuned):
    model = openai.models.retrieve(tuned)
    assert (model.id, model.object, model.owned_by, model.base_model) == (tuned, "model", "default", "tiny")
    assert model.class_names == {"cat": "cat", "dog": "dog", "red_panda": "lesser panda"}
    assert model.trained_classes == ["cat", "red_panda"]
    assert openai.fine_tuning.jobs.retrieve(model.job_id).fine_tuned_model == tuned


def test_base_model_is_shown_with_its_licence(openai):
    model = openai.models.retrieve("starter")
    assert (model.owned_by, model.base_model) == ("alignclip", None)
    assert "not for products" in model.licence


def test_unknown_model_is_404_and_so_is_one_that_is_not_here(openai):
    for name in ("nothing", "vit-b-16-openai", "org/name"):
        with pytest.raises(NotFoundError) as caught:
            openai.models.retrieve(name)
        assert caught.value.code == "model_not_found"


def test_deleted_model_classifies_no_more(service, create_job, picture):
    model = service.finish(create_job().id)
    url = f"/v1/models/{model}/classify"
    assert service.http.post(url, files={"image": picture}).status_code == 200
    deleted = service.openai.models.delete(model)
    assert (deleted.id, deleted.object, deleted.deleted) == (model, "model", True)
    assert service.http.post(url, files={"image": picture}).status_code == 404
    with pytest.raises(NotFoundError):
        service.openai.models.retrieve(model)


def test_base_model_cannot_be_deleted(openai):
    with pytest.raises(BadRequestError, match="base model"):
        openai.models.delete("starter")
