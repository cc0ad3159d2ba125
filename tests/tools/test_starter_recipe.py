"""The recipe under tools/starter, end to end on generated pictures with a random stem."""

from __future__ import annotations

import csv
import zipfile
from io import BytesIO, StringIO

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alignclip_core.base_models import STARTER_FOLDER
from alignclip_core.encoder.starter import WEIGHTS_FILE, build_image_encoder
from tools.starter import train as recipe
from tools.starter.losses import contrast, positives, ridge_answers
from tools.starter.pairs import PairSource

ROWS = [
    ("a/red.jpg", "colours", "red"),
    ("a/red.jpg", "colours", "crimson"),
    ("a/blue.jpg", "colours", "blue"),
    ("b/walk.jpg", "flickr", "A dog walks along the beach."),
    ("b/walk.jpg", "flickr", "A dog by the sea."),
    ("c/green.jpg", "colours_val", "green"),
    ("c/red.jpg", "colours_val", "red"),
    ("d/gone.jpg", "colours", "grey"),
]
COLOURS = {"a/red.jpg": (200, 20, 20), "a/blue.jpg": (20, 20, 200), "b/walk.jpg": (190, 170, 120)}
COLOURS |= {"c/green.jpg": (20, 200, 20), "c/red.jpg": (210, 30, 30)}


@pytest.fixture
def pairs_zip(tmp_path):
    path = tmp_path / "pairs.zip"
    table = StringIO()
    csv.writer(table).writerows([("image", "kind", "caption"), *ROWS])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("captions.csv", table.getvalue())
        for name, colour in COLOURS.items():
            content = BytesIO()
            Image.new("RGB", (90, 60), colour).save(content, "JPEG")
            archive.writestr(name, content.getvalue())
    return path


def test_recipe_writes_the_file_that_the_starter_is_read_from(pairs_zip, tmp_path, capsys):
    output = tmp_path / "out"
    recipe.main(
        ["--pairs", str(pairs_zip), "--output", str(output), "--steps", "2", "--batch-size", "4", "--random-stem"]
    )

    written, shipped = load_file(output / WEIGHTS_FILE), load_file(STARTER_FOLDER / WEIGHTS_FILE)
    assert {name: (value.shape, value.dtype) for name, value in written.items() if "num_batches" not in name} == {
        name: (value.shape, value.dtype) for name, value in shipped.items() if "num_batches" not in name
    }
    encoder = build_image_encoder(output)
    features = encoder(torch.zeros(1, 3, 224, 224))
    assert features.norm(dim=-1).item() == pytest.approx(1, abs=1e-5)
    assert "2 held-out pictures:" in capsys.readouterr().out


def test_pictures_are_read_alike_from_a_zip_and_from_a_folder(pairs_zip, tmp_path):
    with zipfile.ZipFile(pairs_zip) as archive:
        archive.extractall(tmp_path / "folder")
    from_zip = PairSource(pairs_zip).pictures()
    assert from_zip == PairSource(tmp_path / "folder").pictures()
    assert [picture.path for picture in from_zip] == list(COLOURS)  # the row without a picture is left out
    assert from_zip[0].captions == ("red", "crimson")


def test_class_pictures_share_positives_by_name_and_captioned_ones_stand_alone(pairs_zip):
    red, blue, walk, _, other_red = PairSource(pairs_zip).pictures()
    keys = [red.positive_key(0), blue.positive_key(0), walk.positive_key(0), other_red.positive_key(0)]
    assert positives(keys).tolist() == [[0.5, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 0.5]]


def test_contrast_with_single_positives_is_clips_loss():
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(5, 8), dim=-1) for _ in range(2))
    logits = 7 * images @ texts.T
    labels = torch.arange(5)
    clip = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(contrast(images, texts, torch.tensor(7.0), torch.eye(5)), clip)


def test_ridge_answers_a_linear_relation():
    torch.manual_seed(0)
    pooled = 20 * torch.randn(400, 6)
    wanted = torch.nn.functional.normalize(pooled @ torch.randn(6, 3) + 1, dim=-1) * 3
    answers = ridge_answers(pooled, wanted)
    assert (answers * wanted / 3).sum(-1).mean() > 0.9
