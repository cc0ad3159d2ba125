"""Where a model looks, over HTTP: the maps of the method, as numbers and pictures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from alignclip_core.base_models import read_card
from alignclip_core.encoder import build_text_encoder
from alignclip_core.explain.maps import make_maps
from alignclip_core.finished_model import load_base_model
from alignclip_core.images import decode_image
from alignclip_core.prompts import embed_classes

NAMES = {"cls_attention", "patch_similarity", "dv_similarity"}


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), extra_body={"num_steps": 2}
    )
    return service.finish(job.id)


@pytest.fixture
def explain(http, picture):
    """POSTs the picture; the answer."""

    def post(model, content=None, **data):
        files = {"image": ("dog.png", picture if content is None else content)}
        return http.post(f"/v1/models/{model}/explain", files=files, data=data)

    return post


def test_maps_are_those_of_the_method(service, explain, picture):
    card = read_card(service.settings.models_location / "tiny", "tiny")
    text = embed_classes(build_text_encoder(card), ["dog"], card.templates)[0]
    expected = make_maps(load_base_model(card), decode_image(picture), text)
    answer = explain("tiny", label="dog").json()
    assert (answer["object"], answer["model"], answer["label"], answer["grid"]) == (
        "explanation",
        "tiny",
        "dog",
        [2, 2],
    )
    assert answer["maps"].keys() == answer["pictures"].keys() == NAMES
    assert np.allclose(answer["maps"]["cls_attention"], expected.cls_attention, atol=1e-5)
    assert np.allclose(answer["maps"]["patch_similarity"], expected.patch_similarity, atol=1e-5)
    assert np.allclose(answer["maps"]["dv_similarity"], expected.dv_patch_similarity, atol=1e-5)
    assert answer["similarity"] == pytest.approx(expected.image_similarity, abs=1e-5)


def test_pictures_are_png_of_one_size(explain):
    answer = explain("tiny", label="dog").json()
    sizes = {open_url(url).size for url in [answer["image"], *answer["pictures"].values()]}
    assert sizes == {(224, 224)}


def test_two_models_explain_the_same_image(explain, tuned):
    answer = explain(tuned, label="dog", compare_with="tiny").json()
    assert (answer["model"], answer["compared"]["model"]) == (tuned, "tiny")
    assert answer["maps"] != answer["compared"]["maps"]
    assert answer["compared"] == explain("tiny", label="dog").json()
    assert answer["image"] == answer["compared"]["image"]


def test_alias_explains_as_its_model(http, explain, tuned):
    http.put("/v1/aliases/shown", json={"model": tuned})
    assert explain("shown", label="dog").json() == explain(tuned, label="dog").json()
    http.delete("/v1/aliases/shown")


@pytest.mark.parametrize(
    ("data", "content", "status", "param"),
    [
        ({}, None, 400, "label"),
        ({"label": " "}, None, 400, "label"),
        ({"label": ["dog", "cat"]}, None, 400, "label"),
        ({"label": "dog", "lable": "cat"}, None, 400, "lable"),
        ({"label": "dog", "compare_with": "ft:nothing"}, None, 404, "model"),
        ({"label": "dog"}, b"no picture", 400, "image"),
    ],
)
def test_what_cannot_be_explained_is_refused_by_name(explain, data, content, status, param):
    answer = explain("tiny", content, **data)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize("name", ["image", "label"])
def test_more_files_than_one_are_refused_by_their_field(http, picture, name):
    files = [("image", picture), (name, picture)]
    error = http.post("/v1/models/tiny/explain", files=files, data={"compare_with": "tiny"}).json()["error"]
    assert (error["param"], error["code"]) == (name, "invalid_request")


def open_url(url):
    kind, _, content = url.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)), formats=["PNG"])
