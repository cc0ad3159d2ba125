"""What the terminal and the API start: one line for what is foreseen, and nothing left behind."""

import pytest
from PIL import Image

from alignclip_core.commands import main


@pytest.fixture
def image(tmp_path):
    Image.new("RGB", (40, 32), "navy").save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


@pytest.mark.parametrize("command", ["export", "explain", "interpolate"])
def test_finished_model_is_worked_on(tuned_folder, tiny_base_model, tmp_path, image, command):
    given = {
        "export": ["--format", "open_clip"],
        "explain": [image, "--label", "a circle"],
        "interpolate": ["--alpha", "0.5"],
    }[command]
    models_dir = ["--models-dir", str(tiny_base_model.folder.parent)]
    code = main([command, str(tuned_folder), *given, *models_dir, "--output", str(tmp_path / "out")])
    made = {"export": "alignclip.json", "explain": "overview.png", "interpolate": "manifest.json"}[command]
    assert code == 0
    assert (tmp_path / "out" / made).is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "nobody", "--format", "onnx"], "No base model 'nobody'"),
        (["export", "starter", "--format", "huggingface"], "convolutional stem"),
        (["explain", "{tuned}", "{tuned}/manifest.json", "--label", "a"], "no image of a known format"),
        (["explain", "{tuned}", "nowhere.png", "--label", "a"], "nowhere.png"),
        (["interpolate", "{tuned}", "--alpha", "2"], "alpha is 2.0"),
        (["interpolate", "{models}", "--alpha", "1"], "manifest.json"),
        (["export", "{models}", "--format", "onnx"], "manifest.json"),
        (["convert", "nowhere.pt", "--architecture", "ViT-B-32"], "no file 'nowhere.pt'"),
    ],
)
def test_what_is_wrong_is_one_line(tuned_folder, tiny_base_model, tmp_path, capsys, arguments, message):
    models_dir = tiny_base_model.folder.parent
    given = [argument.format(tuned=tuned_folder, models=models_dir) for argument in arguments]
    code = main([*given, "--models-dir", str(models_dir), "--output", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 1
    assert line.startswith("alignclip: ")
    assert message in line
    assert not list(tmp_path.iterdir())
