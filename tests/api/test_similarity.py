"""The class-similarity matrix: without a job, of a job, as numbers, as a picture and as the trainer's file."""

import hashlib
import json
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load

from alignclip_core.method.similarity import calibrated_scale, normalised_similarity

NAMES = ["cat", "dog", "red_panda"]


def test_matrix_comes_without_a_job(http):
    answer = http.post("/v1/similarity", json={"model": "tiny", "class_names": NAMES, "similarity_scale": 35}).json()
    cosine = np.array(answer["cosine"])
    assert (answer["class_names"], answer["templates"], answer["text_model"]) == (NAMES, ["a photo of a {}."], "tiny")
    assert cosine.shape == (3, 3)
    assert np.allclose(cosine, cosine.T)
    assert np.diag(cosine).tolist() == [1, 1, 1]
    expected = normalised_similarity(torch.tensor(cosine, dtype=torch.float32), 35.0, True)
    assert np.allclose(answer["normalised"], expected, atol=1e-6)
    assert (answer["similarity_scale"], answer["keep_diagonal"]) == (35, True)


def test_hash_can_be_checked_from_the_answer_alone(http):
    answer = http.post("/v1/similarity", json={"model": "tiny", "class_names": NAMES, "templates": "pets"}).json()
    head = json.dumps([answer["class_names"], answer["templates"], answer["text_model"]])
    matrix = np.array(answer["cosine"]).astype("<f4").tobytes()
    assert answer["sha256"] == hashlib.sha256(head.encode() + matrix).hexdigest()


def test_job_serves_the_matrix_that_it_trains_with(http, create_job):
    job = create_job(extra_body={"num_steps": 2, "preset": "authors_code", "num_aligned_layers": 4})
    answer = http.get(job.similarity["url"]).json()
    assert answer["sha256"] == job.similarity["sha256"]
    assert answer["class_names"] == NAMES
    assert (answer["similarity_scale"], answer["keep_diagonal"]) == (35, False)
    assert np.diag(answer["normalised"]).tolist() == [0, 0, 0]
    file = load(http.get(f"{job.similarity['url']}.safetensors").content)
    assert np.array_equal(file["cosine"], np.array(answer["cosine"], dtype=np.float32))
    assert file["class_embeddings"].shape == (3, 16)


def test_a_job_of_a_calibrated_scale_tells_the_number_that_it_takes(http, create_job):
    job = create_job(extra_body={"num_steps": 2, "similarity_scale": "calibrated"})
    answer = http.get(job.similarity["url"]).json()
    cosine = torch.tensor(answer["cosine"])
    assert answer["similarity_scale"] == pytest.approx(calibrated_scale(cosine))
    expected = normalised_similarity(cosine, answer["similarity_scale"], True)
    assert np.allclose(answer["normalised"], expected, atol=1e-6)


def test_matrix_of_the_same_names_is_computed_once(http, service):
    def post(**fields):
        return http.post("/v1/similarity", json={"model": "tiny", "class_names": ["owl", "hawk"]} | fields).json()["id"]

    first = post()
    assert post(similarity_scale=9) == first  # the scale is laid over the stored cosine
    assert post(templates=["{}"]) != first
    assert post(class_names=["hawk", "owl"]) != first


def test_picture_has_a_square_for_every_pair(http, create_job):
    job = create_job()
    answer = http.get(f"{job.similarity['url']}.png")
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(BytesIO(answer.content)).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(100_000)}
    assert (253, 231, 37) in colours  # the diagonal: every class is most like itself
    assert (68, 1, 84) in colours  # and some two are least alike


def test_matrix_too_long_for_json_comes_as_picture_and_file(start_service):
    service = start_service()
    names = [f"kind {number}" for number in range(1001)]
    answer = service.http.post("/v1/similarity", json={"model": "tiny", "class_names": names})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_classes")
    assert "similarity.safetensors" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"class_names": ["cat"]}, "class_names"),
        ({"class_names": ["cat", "cat"]}, "class_names"),
        ({"class_names": ["cat", " "]}, "class_names"),
        ({"class_names": ["red_panda", "red panda"]}, "class_names"),
        ({"class_names": []}, "class_names"),
        ({"class_names": ["cat", 5]}, "class_names.1"),
        ({"model": "nothing"}, "model"),
        ({"templates": ["a photo"]}, "templates"),
        ({"templates": []}, "templates"),
        ({"similarity_scale": -1}, "similarity_scale"),
        ({"scale": 1}, "scale"),
    ],
)
def test_names_that_cannot_be_compared_are_refused(http, fields, param):
    answer = http.post("/v1/similarity", json={"model": "tiny", "class_names": NAMES} | fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
