"""Embeddings of images and texts, which classify as the model itself does."""

import base64

import numpy as np
import pytest


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
        ({"input": [""]}, "input"),
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
    assert http.post(url, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert embed("ft:nothing", input="x").status_code == 404
    for texts in ("[1, 2]", "[", ""):
        answer = http.post(url, files={"image": picture}, data={"input": texts})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input"), answer.text


def rows(answer):
    return np.array([item["embedding"] for item in answer["data"]])
