"""Exports over HTTP: a zip that the format's own library reads, and nothing left on the disk."""

import io
import json
import zipfile

import open_clip
import pytest
import torch
from torch.testing import assert_close

from alignclip_core.base_models import read_card
from alignclip_core.finished_model import load_finished_model
from alignclip_store import models
from alignclip_store.database import reading


@pytest.fixture(scope="module")
def tuned(service, archive):
    """A finished model."""
    job = service.openai.fine_tuning.jobs.create(
        model="tiny", training_file=service.upload(archive), suffix="sent", extra_body={"num_steps": 2}
    )
    return service.finish(job.id, {"headline": {}})


def test_zip_of_a_tuned_model_gives_its_logits_in_open_clip(service, tuned, tmp_path):
    answer = service.http.get(f"/v1/models/{tuned}/export", params={"format": "open_clip"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        packed.extractall(tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with reading(service.engine) as session:
        folder = service.artifacts.local_path(models.get_model(session, "default", tuned).artifact_uri)
    own = load_finished_model(folder, read_card(service.settings.models_location / "tiny", "tiny"))
    with torch.no_grad():
        assert_close(model.eval().encode_image(images, normalize=True), own.image_encoder(images), atol=1e-5, rtol=0)
    assert model.logit_scale.exp().item() == pytest.approx(own.logit_scale)
    about = json.loads((tmp_path / "alignclip.json").read_text())
    assert about["labels"] == ["cat", "dog", "red_panda"]
    assert not list(service.settings.home_dir.glob("export-*"))


def test_format_that_cannot_hold_the_model_is_refused_with_one_that_can(service):
    answer = service.http.get("/v1/models/starter/export", params={"format": "huggingface"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("export_unfit", "format")
    assert "'onnx'" in error["message"]


def test_unknown_format_and_unknown_model_are_refused(service):
    answer = service.http.get("/v1/models/tiny/export", params={"format": "pickle"})
    assert answer.status_code == 400
    assert "onnx" in answer.json()["error"]["message"]
    assert service.http.get("/v1/models/ft:nothing/export").status_code == 404
    assert service.http.get("/v1/models/tiny/export", headers={"authorization": "Bearer no"}).status_code == 401


def test_damaged_model_is_no_export_and_leaves_nothing(service, create_job):
    model = service.finish(create_job().id)
    with reading(service.engine) as session:
        folder = service.artifacts.local_path(models.get_model(session, "default", model).artifact_uri)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    answer = service.http.get(f"/v1/models/{model}/export")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "export_failed")
    assert "cut off or changed" in answer.json()["error"]["message"]
    assert not list(service.settings.home_dir.glob("export-*"))


def test_export_is_described_as_a_zip(service):
    operation = service.http.get("/openapi.json").json()["paths"]["/v1/models/{model}/export"]["get"]
    assert list(operation["responses"]["200"]["content"]) == ["application/zip"]
    (given,) = (parameter for parameter in operation["parameters"] if parameter["name"] == "format")
    assert given["schema"]["enum"] == ["open_clip", "huggingface", "onnx"]
