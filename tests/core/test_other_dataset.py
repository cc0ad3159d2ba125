"""A model on datasets of other classes, in its own run and when it is finished: dataset shift."""

import json
import shutil
import threading

import pytest
import torch

from alignclip_core.classifier import Classifier
from alignclip_core.commands import main
from alignclip_core.encoder import build_text_encoder
from alignclip_core.finished_model import open_model
from alignclip_core.images import decode_image
from alignclip_core.other_dataset import evaluate_on_dataset
from alignclip_core.prompts import embed_classes
from alignclip_core.train import train


@pytest.fixture(scope="module")
def other(tmp_path_factory, draw_dataset):
    folder = tmp_path_factory.mktemp("other") / "shapes"
    draw_dataset(folder, classes=("cross", "square"), num_images=4)
    return folder


def test_a_model_chooses_among_the_other_datasets_own_classes(tuned_folder, tiny_base_model, other):
    model = open_model(str(tuned_folder), tiny_base_model.folder.parent)
    found = evaluate_on_dataset(model, other, {"cross": "plus sign"})
    assert found["num_images"] == 8
    assert found["per_class"].keys() == {"cross", "square"}
    assert found["confusion"]["labels"] == ["cross", "square"]
    assert found["per_class"] == slow_answer(model, other, ("plus sign", "square"))


def slow_answer(model, folder, labels):
    """One image after the other, with open eyes."""

    texts = embed_classes(build_text_encoder(model.base_model), labels, model.templates)
    classifier = Classifier.of(model)
    shares = {}
    for row, name in enumerate(("cross", "square")):
        images = [decode_image(path.read_bytes()) for path in sorted((folder / name).iterdir())]
        shares[name] = (classifier.classify(images, texts).argmax(dim=1) == row).float().mean().item()
    return shares


def test_the_command_writes_the_evaluation(tuned_folder, tiny_base_model, other, tmp_path):
    models = ["--models-dir", str(tiny_base_model.folder.parent)]
    code = main(["evaluate", str(tuned_folder), str(other), *models, "--output", str(tmp_path / "found.json")])
    assert code == 0
    assert json.loads((tmp_path / "found.json").read_text())["num_images"] == 8
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("algorithm", ["alignclip", "finetune", "coop", "dpl"])
def test_a_run_measures_its_test_datasets_as_a_finished_model_is_measured(
    make_run, draw_dataset, tiny_base_model, algorithm
):
    run_dir = make_run(algorithm=algorithm, num_steps=2)
    draw_dataset(run_dir.test_dataset("outlines"), classes=("cross", "square"), num_images=4)
    draw_dataset(run_dir.test_dataset("dots"), ("dotted", "plain"), classes=("circle", "square", "triangle"))
    run_dir.write_test_class_names("outlines", {"cross": "plus sign"})
    models_dir = tiny_base_model.folder.parent
    train(run_dir, models_dir=models_dir, stop=threading.Event())

    result = run_dir.read_manifest()["result"]
    for found, model in (
        (result["zero_shot"], open_model("tiny", models_dir)),
        (result["tuned"], open_model(str(run_dir.model), models_dir)),
    ):
        names = {"outlines": {"cross": "plus sign"}, "dots": None}
        assert found["test_datasets"].keys() == names.keys()
        for name, given in names.items():
            expected = evaluate_on_dataset(model, run_dir.test_dataset(name), given)
            measured = found["test_datasets"][name]
            assert measured["loss"] == pytest.approx(expected["loss"], abs=1e-4)
            assert {key: measured[key] for key in ("accuracy", "num_images", "per_class", "per_domain")} == {
                key: expected[key] for key in ("accuracy", "num_images", "per_class", "per_domain")
            }
            assert {mistake["source"] for mistake in measured["mistakes"]} <= {f"test-{name}"}
    assert result["tuned"]["test_datasets"]["outlines"]["confusion"]["labels"] == ["cross", "square"]
    assert result["tuned"]["test_datasets"]["dots"]["num_images"] == 30
    assert result["tuned"].keys() == {"trained_domains", "test_datasets"}


def test_a_run_that_goes_on_from_a_checkpoint_measures_the_same(make_run, draw_dataset, tiny_base_model):
    run_dir = make_run(num_steps=4, checkpoint_every_steps=2)
    draw_dataset(run_dir.test_dataset("outlines"), classes=("cross", "square"), num_images=4)
    results = []
    for _ in range(2):
        train(run_dir, models_dir=tiny_base_model.folder.parent, stop=threading.Event())
        results.append({name: run_dir.read_manifest()["result"][name] for name in ("zero_shot", "tuned")})
        shutil.rmtree(run_dir.model)
        shutil.rmtree(run_dir.checkpoint_folder(4))
    messages = [record.values.get("message") for record in run_dir.read_records()[0]]
    assert "Going on from step 2 of 4." in messages
    assert results[0]["tuned"]["test_datasets"].keys() == {"outlines"}
    assert results[0] == results[1]
