"""Classifying in every form: multipart, JSON and raw bytes, the last two through huggingface_hub's own client."""

import base64
import io
import json
import math
import shutil
import struct
import zlib

import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from PIL import Image, ImageDraw

from alignclip_core.base_models import STARTER_FOLDER, read_card
from alignclip_core.checkpoint import LEARNED, load_model, save_model
from alignclip_core.classifier import Classifier
from alignclip_core.encoder import build_text_encoder
from alignclip_core.finished_model import load_finished_model
from alignclip_core.images import decode_image
from alignclip_core.prompts import embed_classes
from alignclip_store import models
from alignclip_store.database import transaction

LABELS = ["cat", "dog", "car"]


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model of three classes."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), extra_body={"num_steps": 2}
    )
    return service.finish(job.id)


@pytest.fixture
def classify(http):
    """POSTs a multipart form to a model; the answer."""

    def post(model, images, **data):
        files = [("image", (f"{index}.png", content)) for index, content in enumerate(images)]
        return http.post(f"/v1/models/{model}/classify", files=files, data=data)

    return post


def test_starter_tells_a_drawn_sun_from_a_tree(classify):
    yellow = Image.new("RGB", (160, 160), "skyblue")
    ImageDraw.Draw(yellow).ellipse((40, 40, 120, 120), fill="yellow")
    green = Image.new("RGB", (160, 160), "white")
    draw = ImageDraw.Draw(green)
    draw.rectangle((70, 90, 90, 155), fill="saddlebrown")
    draw.ellipse((30, 10, 130, 100), fill="forestgreen")
    answer = classify("starter", [png(yellow), png(green)], labels=["sun", "tree"]).json()
    assert (answer["object"], answer["model"]) == ("list", "starter")
    assert [(item["index"], item["filename"]) for item in answer["data"]] == [(0, "0.png"), (1, "1.png")]
    assert [item["predictions"][0]["label"] for item in answer["data"]] == ["sun", "tree"]


def test_scores_are_those_of_the_method(classify, picture):
    card = read_card(STARTER_FOLDER, "starter")
    embeddings = embed_classes(build_text_encoder(card), LABELS, card.templates)
    expected = Classifier.from_base(card).classify([decode_image(picture)], embeddings)[0]
    ranked = classify("starter", [picture], labels=LABELS).json()["data"][0]["predictions"]
    assert {best["label"]: pytest.approx(best["score"], abs=1e-5) for best in ranked} == dict(
        zip(LABELS, expected.tolist(), strict=True)
    )
    assert [best["score"] for best in ranked] == sorted((best["score"] for best in ranked), reverse=True)


def test_tuned_model_knows_its_own_classes_and_any_other(classify, tuned, picture):
    own = classify(tuned, [picture]).json()["data"][0]["predictions"]
    assert {best["label"] for best in own} == {"cat", "dog", "red_panda"}
    other = classify(tuned, [picture], labels=["fox", "owl", "dog", "bee", "elk", "emu"]).json()["data"][0][
        "predictions"
    ]
    assert len(other) == 6  # labels that the caller names are all scored
    assert sum(best["score"] for best in other) == pytest.approx(1)


def test_tuned_model_is_another_than_its_base(classify, tuned, picture):
    labels = ["cat", "dog", "red_panda"]
    assert (
        classify(tuned, [picture], labels=labels).json()["data"]
        != classify("tiny", [picture], labels=labels).json()["data"]
    )


def test_many_images_keep_their_order_and_names(classify, pictures):
    files = list(pictures.values()) * 3
    many = classify("tiny", files, labels=LABELS).json()["data"]
    assert [item["filename"] for item in many] == [f"{index}.png" for index in range(45)]
    single = classify("tiny", [files[7]], labels=LABELS).json()["data"][0]
    assert scores(many[7]) == pytest.approx(scores(single), abs=1e-5)


def test_labels_may_be_repeated_or_a_json_list(classify, picture):
    repeated = classify("tiny", [picture], labels=LABELS).json()["data"]
    assert classify("tiny", [picture], labels=json.dumps(LABELS)).json()["data"] == repeated
    assert classify("tiny", [picture], **{"labels[]": LABELS}).json()["data"] == repeated


def test_templates_change_the_answer(classify, picture):
    plain = classify("tiny", [picture], labels=LABELS).json()["data"]
    pets = classify("tiny", [picture], labels=LABELS, templates="pets").json()["data"]
    spelled = classify("tiny", [picture], labels=LABELS, templates="a photo of a {}, a type of pet.").json()["data"]
    assert plain != pets == spelled


def test_top_k_gives_the_best_and_more_than_there_are_gives_all(classify, picture):
    best = classify("tiny", [picture], labels=LABELS).json()["data"][0]["predictions"]
    assert classify("tiny", [picture], labels=LABELS, top_k=1).json()["data"][0]["predictions"] == best[:1]
    assert classify("tiny", [picture], labels=LABELS, top_k=99).json()["data"][0]["predictions"] == best


def test_hugging_face_client_classifies_raw_bytes_and_files(service, tuned, picture, tmp_path):
    client = service.hugging_face(tuned)
    found = client.image_classification(picture)  # sent without a content type
    assert {best.label for best in found} == {"cat", "dog", "red_panda"}
    assert sum(best.score for best in found) == pytest.approx(1)
    (tmp_path / "dog.png").write_bytes(picture)
    assert client.image_classification(tmp_path / "dog.png") == found
    assert client.image_classification(picture, top_k=1) == found[:1]


def test_hugging_face_client_picks_the_scores(service, tuned, picture):
    client = service.hugging_face(tuned)
    logits = {best.label: best.score for best in client.image_classification(picture, function_to_apply="none")}
    sigmoid = {best.label: best.score for best in client.image_classification(picture, function_to_apply="sigmoid")}
    softmax = {best.label: best.score for best in client.image_classification(picture, function_to_apply="softmax")}
    assert sigmoid == {label: pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5) for label, logit in logits.items()}
    expected = torch.softmax(torch.tensor(list(logits.values())), 0).tolist()
    assert list(softmax.values()) == pytest.approx(expected, abs=1e-5)


def test_hugging_face_client_classifies_zero_shot(service, picture, classify):
    client = service.hugging_face("tiny")
    found = client.zero_shot_image_classification(picture, LABELS)
    ours = classify("tiny", [picture], labels=LABELS).json()["data"][0]["predictions"]
    assert [(best.label, best.score) for best in found] == [(best["label"], best["score"]) for best in ours]
    template = "a photo of a {}, a type of pet."
    assert client.zero_shot_image_classification(picture, LABELS, hypothesis_template=template) != found


def test_hugging_face_client_asks_for_health_and_info(service):
    url = f"{service.url}/v1/models/tiny/classify"
    client = InferenceClient(model=url, provider="hf-inference", token=service.settings.bootstrap_api_key)
    assert client.health_check()
    assert client.get_endpoint_info()["id"] == "tiny"
    nothing = InferenceClient(model=url.replace("tiny", "no"), provider="hf-inference", token="acl-test-key")
    assert not nothing.health_check()


def test_hugging_face_client_shows_our_words(service, picture):
    with pytest.raises(BadRequestError, match="name at least two in 'labels'"):
        service.hugging_face("tiny").image_classification(picture)
    with pytest.raises(HfHubHTTPError, match="No model 'nothing'") as caught:
        service.hugging_face("nothing").image_classification(picture)
    assert caught.value.response.status_code == 404
    with pytest.raises(HfHubHTTPError, match="Incorrect API key") as caught:
        service.hugging_face("tiny", token="wrong").image_classification(picture)
    assert caught.value.response.status_code == 401


def test_error_has_the_form_of_its_request(http, classify):
    url = "/v1/models/tiny/classify"
    raw = http.post(url, content=b"no picture")
    assert raw.json() == {"error": raw.headers["x-error-message"]}
    assert raw.status_code == 400
    multipart = classify("tiny", [b"no picture"], labels=LABELS)
    assert set(multipart.json()["error"]) == {"message", "type", "param", "code"}


def test_image_that_does_not_decode_is_named(classify, picture):
    for broken in (b"no picture", picture[:60]):
        answer = classify("tiny", [picture, broken], labels=LABELS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
        assert answer.json()["error"]["param"] == "image"
        assert "1.png" in answer.json()["error"]["message"]


def test_image_of_100_megapixels_is_refused_by_its_header(classify):
    answer = classify("tiny", [huge_png(10_000, 10_000)], labels=LABELS)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_image")
    assert "pixels" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("data", "param", "words"),
    [
        ({"labels": ["cat"]}, "labels", "at least two"),
        ({"labels": '["cat"]'}, "labels", "at least two"),
        ({"labels": ["cat", "cat"]}, "labels", "twice"),
        ({"labels": ["cat", " "]}, "labels", "empty"),
        ({"labels": ["red_panda", "red panda"]}, "labels", "the same"),
        ({"labels": '["cat", 5]'}, "labels", "list of texts"),
        ({"labels": '["cat", '}, "labels", "JSON"),
        ({"labels": '["cat", "\\ud800"]'}, "labels", "half of a character"),
        ({}, "labels", "name at least two"),
        ({"labels": LABELS, "top_k": 0}, "top_k", "from 1"),
        ({"labels": LABELS, "top_k": "many"}, "top_k", "'many'"),
        ({"labels": LABELS, "templates": "a photo"}, "templates", "{}"),
        ({"labels": LABELS, "templates": "{} and {}"}, "templates", "exactly once"),
        ({"labels": LABELS, "function_to_apply": "max"}, "function_to_apply", "'max'"),
        ({"lables": LABELS}, "lables", "Unknown field"),
        ({"image": "text"}, "image", "as a file"),
    ],
)
def test_form_that_cannot_be_used_is_refused_by_name(classify, picture, data, param, words):
    error = classify("tiny", [picture], **data).json()["error"]
    assert (error["param"], words in error["message"]) == (param, True), error


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "base64"),
        (b'{"inputs": 5}', "base64"),
        (b'{"inputs": "https://example.org/cat.png"}', "not fetched"),
        (b'{"inputs": "", "parameters": []}', "parameters"),
        (b'{"inputs": "", "parameters": {"topk": 1}}', "'topk'"),
        (b'{"inputs": "", "parameters": {"top_k": "1"}}', "whole number"),
        (b'{"inputs": "", "parameters": {"calibrated": 1}}', "true or false"),
        (b'{"inputs": "", "parameters": {"candidate_labels": ["cat"]}}', "at least two"),
        (b'{"inputs": "", "parameters": {"candidate_labels": ["cat", "dog"]}}', "0 bytes"),
        (b'{"inputs": "", "parameters": {"candidate_labels": "cat"}}', "list"),
        (b'{"inputs": "", "parameters": {"hypothesis_template": "a photo"}}', "{}"),
        (b'{"inputs": "", "parameters": {"hypothesis_template": "{} \\udfff"}}', "half of a character"),
    ],
)
def test_json_that_cannot_be_used_is_refused(http, body, words):
    answer = http.post("/v1/models/tiny/classify", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


def test_empty_body_and_body_of_another_kind_are_refused(http, tuned):
    url = f"/v1/models/{tuned}/classify"
    assert (http.post(url).status_code, "empty" in http.post(url).json()["error"]) == (400, True)
    assert http.post(url, content=b"%PDF", headers={"content-type": "application/pdf"}).status_code == 415
    assert http.post(url, data={"labels": "x"}, files={}).status_code == 400


def test_more_than_allowed_is_refused(start_service, picture):
    small = start_service(max_images_per_request=2, max_labels_per_request=2, max_image_bytes=len(picture))

    def post(num_images, labels, content=picture):
        files = [("images", (f"{index}.png", content)) for index in range(num_images)]
        return small.http.post("/v1/models/tiny/classify", files=files, data={"labels": labels})

    assert post(2, ["cat", "dog"]).status_code == 200
    assert post(3, ["cat", "dog"]).json()["error"]["code"] == "invalid_multipart"
    assert post(1, LABELS).json()["error"]["param"] == "labels"
    assert post(1, ["cat", "dog"], picture + b"x").json()["error"]["code"] == "invalid_image"


def test_curl_sends_a_picture_with_its_own_content_type(http, tuned, picture):
    answer = http.post(
        f"/v1/models/{tuned}/classify", content=picture, headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert len(answer.json()) == 3
    encoded = {"inputs": "data:image/png;base64," + base64.b64encode(picture).decode()}
    assert http.post(f"/v1/models/{tuned}/classify", json=encoded).json() == answer.json()


def scores(item):
    return [best["score"] for best in item["predictions"]]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def huge_png(width, height):
    """A PNG that says it is that large, in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_two_models_classify_the_same_images(classify, tuned, pictures):
    files = list(pictures.values())[:3]
    labels = ["cat", "dog", "red_panda"]
    both = classify(tuned, files, labels=labels, compare_with="tiny").json()
    assert (both["model"], both["compared"]["model"]) == (tuned, "tiny")
    for answer, alone in ((both, tuned), (both["compared"], "tiny")):
        assert answer["data"] == classify(alone, files, labels=labels).json()["data"]
    assert classify(tuned, files, labels=labels, compare_with="ft:nothing").status_code == 404
    assert classify(tuned, files, compare_with="tiny").json()["error"]["param"] == "labels"  # tiny has none of its own


def test_calibration_divides_the_logits_and_rejects_unsure_answers(service, classify, archive, pictures):
    body = {"model": "tiny", "training_file": service.upload(archive), "num_steps": 2}
    jobs = [service.http.post("/v1/fine_tuning/jobs", json=body).json()["id"] for _ in range(2)]
    uncalibrated = service.finish(jobs[0])
    files = list(pictures.values())
    plain = classify(uncalibrated, files).json()
    assert (plain["calibrated"], {item["rejected"] for item in plain["data"]}) == (False, {None})
    softened = [
        max(torch.softmax(torch.tensor(logits_of(classify, uncalibrated, one)) / 8, 0).tolist()) for one in files
    ]
    threshold = sorted(softened)[7]
    measured = {"ece_before": 0.2, "ece_after": 0.1, "auroc": None, "num_images": 40}
    calibration = measured | {"temperature": 8.0, "reject_below": threshold + 1e-6}
    model = service.finish(jobs[1], calibration=calibration)  # the same weights

    answer = classify(model, files).json()
    assert answer["calibrated"]
    assert [scores(item)[0] for item in answer["data"]] == pytest.approx(softened, abs=1e-5)
    assert [item["rejected"] for item in answer["data"]] == [score <= threshold for score in softened]
    assert classify(model, files, calibrated="false").json() == plain | {"model": model}
    other = classify(model, files, labels=LABELS).json()  # the threshold belongs to the model's own classes
    assert (other["calibrated"], other["data"][0]["rejected"]) == (True, None)
    assert not classify(model, files, function_to_apply="none").json()["calibrated"]
    assert classify(model, files, calibrated="maybe").json()["error"]["param"] == "calibrated"
    found = service.hugging_face(model).image_classification(files[0])
    assert found[0].score == pytest.approx(softened[0], abs=1e-5)


def logits_of(classify, model, content):
    return scores(classify(model, [content], function_to_apply="none", top_k=99).json()["data"][0])


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ({"algorithm": "coop"}, {"context": (4, 16)}),
        (
            {"algorithm": "cocoop"},
            {"context": (4, 16), "down.weight": (1, 16), "down.bias": (1,), "up.weight": (16, 1), "up.bias": (16,)},
        ),
        ({"algorithm": "finetune", "head": "linear"}, {"weight": (3, 16)}),
    ],
    ids=["coop", "cocoop", "linear"],
)
def test_what_was_learned_classifies_in_place_of_the_class_texts(service, classify, archive, picture, fields, shapes):
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), extra_body={"num_steps": 2} | fields
    )
    model = service.finish(job.id)
    learn(service, model, job.id, shapes)
    own = ["cat", "dog", "red_panda"]
    for labels in (own, ["fox", "owl"]):
        found = classify(model, [picture], labels=labels).json()["data"][0]["predictions"]
        folder = service.artifacts.local_path(f"artifact:models/{job.id}")
        whole = load_finished_model(folder, read_card(service.settings.models_location / "tiny", "tiny"))
        features = Classifier.of(whole).image_features([decode_image(picture)])
        texts = build_text_encoder(whole.base_model)
        embeddings = whole.class_embeddings_of(texts, labels, image_features=features)
        expected = Classifier.of(whole).probabilities(features, embeddings)[0].tolist()
        assert {best["label"]: pytest.approx(best["score"], abs=1e-5) for best in found} == dict(
            zip(labels, expected, strict=True)
        )
        by_texts = whole.logit_scale * features @ embed_classes(texts, labels, whole.templates).T
        is_known = labels == own or fields["algorithm"] != "finetune"  # to a linear head; texts answer for others
        assert torch.allclose(torch.tensor(expected), by_texts.softmax(dim=1)[0], atol=1e-5) != is_known
    kept = [kind for (kind, model_id), _ in service.app.state.resources.models._loaded.items() if model_id == model]
    assert kept == ["classifier"]  # its tower is held once


def learn(service, model, job_id, shapes):
    """What a job writes that learns more than the tower: `learned.classes.…` beside the tower's weights."""
    folder = service.artifacts.local_path(f"artifact:models/{job_id}")
    saved = load_model(folder)
    noise = torch.Generator().manual_seed(5)
    learned = {f"{LEARNED}{name}": torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    shutil.rmtree(folder)
    kept = {name: value for name, value in saved.manifest.items() if not name.endswith("sha256")}
    save_model(folder, saved.weights | learned, kept)
    with transaction(service.engine) as session:
        models.get_model(session, "default", model).manifest = json.loads((folder / "manifest.json").read_text())
    service.app.state.resources.models.forget(model)
