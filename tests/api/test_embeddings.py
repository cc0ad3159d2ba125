"""Embeddings of images and texts, which classify as the model itself does."""

import base64
from contextlib import contextmanager

import numpy as np
import pytest

from alignclip_core.encoder.text_tower import BATCH_SIZE


@pytest.fixture
def embed(http):
    """POSTs JSON; the answer."""

    def post(model="tiny", **body):
        return http.post(f"/v1/models/{model}/embeddings", json=body)

    return post


def test_embeddings_classify_as_the_model_does(http, embed, picture):
    labels = ["cat", "dog"]
    texts = embed(input=[f"a photo of a {label}." for label in labels]).json()
    images = http.post("/v1/models/tiny/embeddings", files={"image": picture}).json()
    logits = images["logit_scale"] * rows(images) @ rows(texts).T
    form = {"files": {"image": picture}, "data": {"labels": labels, "function_to_apply": "none"}}
    form["data"]["templates"] = "a photo of a {}."
    expected = http.post("/v1/models/tiny/classify", **form).json()["data"][0]["predictions"]
    assert dict(zip(labels, logits[0], strict=True)) == {
        best["label"]: pytest.approx(best["score"], abs=1e-4) for best in expected
    }


def test_both_kinds_in_one_request_in_their_order(http, embed, picture):
    encoded = base64.b64encode(picture).decode()
    answer = embed(input="one text", images=[encoded, encoded]).json()
    assert [(item["kind"], item["index"]) for item in answer["data"]] == [("text", 0), ("image", 0), ("image", 1)]
    form = http.post("/v1/models/tiny/embeddings", files={"image": picture}, data={"input": ["one text"]}).json()
    assert np.allclose(rows(form), rows(answer)[:2], atol=1e-5)
    assert np.allclose(np.linalg.norm(rows(answer), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["cat", ""]}, "input.1"),
        ({"input": 5}, "input"),
        ({"images": ["https://example.org/cat.png"]}, "images"),
        ({"images": ["aGVsbG8="]}, "image"),
        ({"inputs": ["cat"]}, "inputs"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(embed, body, param):
    answer = embed(**body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_unknown_fields_kinds_and_models_are_refused(http, embed, picture):
    url = "/v1/models/tiny/embeddings"
    assert http.post(url, files={"picture": picture}).json()["error"]["param"] == "picture"
    assert http.post(url, content=picture, headers={"content-type": "image/png"}).status_code == 415
    assert embed("ft:nothing", input="x").status_code == 404
    for texts, param in (("[1, 2]", "input.0"), ("[", "input"), ("", "input.0")):
        answer = http.post(url, files={"image": picture}, data={"input": texts})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "empty_body", "empty"),
        (b"{", "invalid_json", "not JSON"),
        (b"[]", "invalid_request", "dictionary"),
        (rb'{"input": ["\ud800"]}', "invalid_request", "unicode"),
        (b'{"input": [""]}', "invalid_request", "at least 1 character"),
    ],
)
def test_json_that_cannot_be_read_is_told_as_on_other_routes(http, body, code, words):
    answer = http.post("/v1/models/tiny/embeddings", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], words in error["message"]) == (400, code, True), error


def test_many_texts_leave_the_text_tower_to_others_between_their_batches(service, embed, monkeypatch):
    models, turns = service.app.state.resources.models, []
    encoding = models.encoding

    @contextmanager
    def counted(base_model):
        with encoding(base_model) as encoder:
            turns.append(base_model.id)
            yield encoder

    monkeypatch.setattr(models, "encoding", counted)
    texts = [f"text {index}" for index in range(2 * BATCH_SIZE + 1)]
    answer = embed(input=texts).json()
    assert turns == ["tiny"] * 3
    assert [item["index"] for item in answer["data"]] == list(range(len(texts)))
    assert np.allclose(rows(answer)[-1], rows(embed(input=texts[-1]).json())[0], atol=1e-5)


def rows(answer):
    return np.array([item["embedding"] for item in answer["data"]])
