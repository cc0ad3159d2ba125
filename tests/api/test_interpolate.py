"""Mixtures of a tuned model with its base: models of their own, made without training."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from alignclip_core.base_models import read_card
from alignclip_core.encoder import build_image_encoder
from alignclip_store import models
from alignclip_store.database import reading
from alignclip_store.errors import ModelNotFound


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), suffix="mixed", extra_body={"num_steps": 2}
    )
    return service.finish(job.id, {"headline": {}})


def interpolate(service, model, body):
    return service.http.post(f"/v1/models/{model}/interpolate", json=body)


def weights_of(service, model):
    with reading(service.engine) as session:
        uri = models.get_model(session, "default", model).artifact_uri
    return load_file(service.artifacts.local_path(uri) / "weights.safetensors")


def test_mixture_is_a_model_that_says_what_it_is(service, tuned):
    answer = interpolate(service, tuned, {"alpha": 0.25})
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert (made["interpolated_from"], made["alpha"], made["base_model"]) == (tuned, 0.25, "tiny")
    assert made["id"] == f"{tuned}:alpha-0.25"
    assert made["result"] is None  # measured on other weights
    source = service.openai.models.retrieve(tuned)
    shown = service.openai.models.retrieve(made["id"])
    assert (shown.class_names, shown.job_id, shown.alpha) == (source.class_names, source.job_id, 0.25)
    assert made["id"] in [model.id for model in service.openai.models.list()]
    assert source.alpha is None
    entries = service.http.get("/v1/audit_log").json()["data"]
    assert ("model.create", made["id"]) in [(entry["action"], entry["object_id"]) for entry in entries]


def test_weights_are_the_mean_of_base_and_tuned(service, tuned):
    made = interpolate(service, tuned, {"alpha": 0.5}).json()
    card = read_card(service.settings.models_location / "tiny", "tiny")
    base = build_image_encoder(card).state_dict()
    mixed, end = weights_of(service, made["id"]), weights_of(service, tuned)
    for name, value in mixed.items():
        assert_close(value, 0.5 * base[name] + 0.5 * end[name])


def test_mixture_classifies_and_its_ends_are_the_two_models(service, tuned, picture):
    def scores(model):
        answer = service.http.post(
            f"/v1/models/{model}/classify", files={"image": picture}, data={"labels": '["cat", "dog", "tree"]'}
        )
        assert answer.status_code == 200, answer.text
        return {best["label"]: best["score"] for best in answer.json()["data"][0]["predictions"]}

    made = {alpha: interpolate(service, tuned, {"alpha": alpha}).json()["id"] for alpha in (0, 0.5, 1)}
    assert scores(made[0]) == pytest.approx(scores("tiny"), abs=1e-6)
    assert scores(made[1]) == pytest.approx(scores(tuned), abs=1e-6)
    assert scores(made[0.5]) != pytest.approx(scores(tuned), abs=1e-4)


def test_same_request_again_gives_the_same_model(service, tuned):
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: interpolate(service, tuned, {"alpha": 0.75}), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert not list(service.settings.home_dir.glob("mixture-*"))


def test_deleted_mixture_leaves_its_source_and_can_be_made_again(service, tuned):
    made = interpolate(service, tuned, {"alpha": 0.125}).json()["id"]
    with reading(service.engine) as session:
        uri = models.get_model(session, "default", made).artifact_uri
    service.openai.models.delete(made)
    assert not service.artifacts.local_path("artifact:models").joinpath(uri.rpartition("/")[2]).exists()
    assert service.openai.models.retrieve(tuned).id == tuned
    assert interpolate(service, tuned, {"alpha": 0.125}).status_code == 200


@pytest.mark.parametrize("body", [{"alpha": -0.1}, {"alpha": 1.1}, {"alpha": "much"}, {}, {"alpha": 0.5, "beta": 1}])
def test_share_that_cannot_be_is_refused(service, tuned, body):
    answer = interpolate(service, tuned, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in ("alpha", "beta")


def test_not_a_number_is_refused(service, tuned):
    headers = {"content-type": "application/json"}
    answer = service.http.post(f"/v1/models/{tuned}/interpolate", content='{"alpha": NaN}', headers=headers)
    assert answer.status_code == 400


def test_unknown_model_is_404_and_a_base_model_400(service):
    answer = interpolate(service, "ft:tiny:nobody", {"alpha": 0.5})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    answer = interpolate(service, "tiny", {"alpha": 0.5})
    assert answer.status_code == 400
    assert "base model" in answer.json()["error"]["message"]


def test_mixture_of_a_mixture_names_the_model_to_take(service, tuned):
    made = interpolate(service, tuned, {"alpha": 0.5}).json()["id"]
    answer = interpolate(service, made, {"alpha": 0.5})
    assert answer.status_code == 400
    assert tuned in answer.json()["error"]["message"]


def test_variant_belongs_to_the_owner_of_its_source(service, tuned):
    made = interpolate(service, tuned, {"alpha": 0.5}).json()["id"]
    with reading(service.engine) as session, pytest.raises(ModelNotFound):
        models.get_model(session, "eve", made)
