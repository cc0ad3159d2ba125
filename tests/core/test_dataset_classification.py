"""A model asked of every image of a dataset: the lines, the counts, broken images, and how it goes on after a stop."""

import hashlib
import json
import shutil
import signal
import threading
from dataclasses import replace

import pyarrow
import pytest
import torch
from pyarrow import parquet

from alignclip_core import dataset_classification
from alignclip_core.checkpoint import LEARNED, load_model, save_model
from alignclip_core.classifier import Classifier, predictions
from alignclip_core.classify_dataset import main
from alignclip_core.dataset.listing import read_staged
from alignclip_core.dataset_classification import DatasetClassification, count_answers, read_lines
from alignclip_core.encoder import build_text_encoder
from alignclip_core.errors import DatasetInvalid, TrainingStopped
from alignclip_core.finished_model import open_model
from alignclip_core.images import decode_image
from alignclip_core.prompts import class_similarity_of
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, ClassificationConfig, RunDir

LABELS = ("circle", "cross", "square", "triangle")
TORCH = {"runtime": "torch", "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def texts(tiny_base_model):
    return class_similarity_of(build_text_encoder(tiny_base_model), LABELS, ("a drawing of a {}.", "a {}."))


@pytest.fixture
def ask(tmp_path, tiny_base_model, tuned_folder, texts, draw_dataset):
    """ask(name="run", num_images=2, **fields): the tuned model asked of its shapes."""

    def make(name="run", num_images=2, **fields):
        run_dir = RunDir(tmp_path / name)
        draw_dataset(run_dir.dataset, num_images=num_images)
        shutil.copytree(tuned_folder, run_dir.asked_model)
        run_dir.write_classification(ClassificationConfig(base_model=tiny_base_model.id, **TORCH | fields))
        texts.save(run_dir.similarity_file)
        return run_dir

    return make


@pytest.fixture
def classify(tiny_base_model):
    """classify(run_dir, stop): runs it in this process; its lines."""

    def run(run_dir, stop=None):
        models_dir = tiny_base_model.folder.parent
        DatasetClassification(run_dir, models_dir=models_dir, stop=stop or threading.Event()).run()
        return list(read_lines(run_dir.answers_file))

    return run


class StopAt:
    """An event that is set from the n-th look on."""

    def __init__(self, num_looks):
        self.num_looks = num_looks

    def is_set(self):
        self.num_looks -= 1
        return self.num_looks <= 0


def messages(run_dir):
    return [record.values["message"] for record in run_dir.read_records()[0] if record.kind == "event"]


def test_each_image_gets_what_serving_would_answer(ask, classify, tuned_folder, tiny_base_model, texts):
    run_dir = ask(top_k=3)
    lines = classify(run_dir)
    assert [line["path"] for line in lines] == [f"{label}/{number}.png" for label in LABELS for number in range(2)]
    classifier = Classifier.of(open_model(str(tuned_folder), tiny_base_model.folder.parent))
    pictures = [decode_image((run_dir.dataset / line["path"]).read_bytes()) for line in lines]
    expected = predictions(classifier.classify(pictures, torch.from_numpy(texts.class_embeddings)), LABELS, 3)
    for line, best in zip(lines, expected, strict=True):
        assert line["label"] == line["path"].partition("/")[0]
        assert [each["label"] for each in line["predictions"]] == [each.label for each in best]
        assert [each["score"] for each in line["predictions"]] == pytest.approx([each.score for each in best], abs=1e-5)
        assert line["rejected"] is None  # no threshold was fitted


def test_the_counts_and_the_hash_are_those_of_the_lines(ask, classify):
    run_dir = ask()
    lines = classify(run_dir)
    result = run_dir.read_result()
    assert (result["num_images"], result["num_failed"], result["num_rejected"]) == (8, 0, None)
    assert sum(result["num_by_label"].values()) == 8
    right = sum(line["predictions"][0]["label"] == line["label"] for line in lines)
    assert (result["num_judged"], result["accuracy"]) == (8, right / 8)
    assert result["sha256"] == hashlib.sha256(run_dir.answers_file.read_bytes()).hexdigest()
    records, _ = run_dir.read_records()
    assert [record.values["phase"] for record in records if record.kind == "phase"] == [
        "loading", "classifying", "saving",
    ]  # fmt: skip
    told = [record for record in records if record.kind == "classify"]
    assert told[-1].step == 8
    assert told[-1].values["images_per_second"] > 0


def test_a_broken_image_gets_its_reason_and_the_others_their_answers(ask, classify):
    run_dir = ask(max_image_pixels=2000)
    whole = (run_dir.dataset / "cross/0.png").read_bytes()
    (run_dir.dataset / "circle/0.png").write_bytes(b"no picture")
    (run_dir.dataset / "circle/1.png").write_bytes(whole[: len(whole) // 2])
    (run_dir.dataset / "cross/1.png").write_bytes(b"")
    lines = classify(run_dir)
    failed = {line["path"]: line["error"] for line in lines if "error" in line}
    assert failed.keys() == {"circle/0.png", "circle/1.png", "cross/1.png"}
    assert all(line.keys() == {"path", "error"} for line in lines if "error" in line)
    assert "no image of a known format" in failed["circle/0.png"]
    result = run_dir.read_result()
    assert (result["num_images"], result["num_failed"], sum(result["num_by_label"].values())) == (8, 3, 5)


def test_a_batch_of_nothing_but_broken_images_is_no_error(ask, classify, monkeypatch):
    monkeypatch.setattr(dataset_classification, "BATCH_SIZE", 2)
    run_dir = ask()
    for number in range(2):
        (run_dir.dataset / f"circle/{number}.png").write_bytes(b"no picture")
    assert [("error" in line) for line in classify(run_dir)] == [True, True] + [False] * 6


def test_the_threshold_speaks_for_the_models_own_labels_alone(ask, classify, tiny_base_model):
    calibration = {
        "temperature": 2.0, "ece_before": 0.1, "ece_after": 0.1, "reject_below": 0.999, "auroc": None, "num_images": 40,
    }  # fmt: skip
    run_dir, other = ask(), ask("other")
    for each in (run_dir, other):
        manifest = json.loads((each.asked_model / "manifest.json").read_text())
        (each.asked_model / "manifest.json").write_text(json.dumps(manifest | {"calibration": calibration}))
    names = ("circle", "cross", "square", "lattice")
    class_similarity_of(build_text_encoder(tiny_base_model), names, ("a {}.",)).save(other.similarity_file)
    assert all(line["rejected"] is True for line in classify(run_dir))
    assert run_dir.read_result()["num_rejected"] == 8
    assert all(line["rejected"] is None for line in classify(other))
    assert other.read_result()["num_judged"] == 6  # no label is called triangle


def test_images_without_class_folders_are_classified_and_not_judged(ask, classify):
    run_dir = ask()
    for number, path in enumerate(sorted(run_dir.dataset.rglob("*.png"))):
        path.rename(run_dir.dataset / f"{number}.png")
    for label in LABELS:
        (run_dir.dataset / label).rmdir()
    lines = classify(run_dir)
    assert [(line["path"], line["label"]) for line in lines] == [(f"{number}.png", None) for number in range(8)]
    assert run_dir.read_result()["accuracy"] is None


@pytest.mark.parametrize("rows", ["unlabelled", "below_zero"])
def test_rows_of_parquet_need_no_label(ask, classify, rows):
    run_dir = ask(num_images=1)
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(run_dir.dataset.rglob("*.png"))]
    shutil.rmtree(run_dir.dataset)
    run_dir.dataset.mkdir()
    table = pyarrow.table({"image": images})
    if rows == "below_zero":  # as the Hub's test splits have it
        kinds = {"info": {"features": {"label": {"names": list(LABELS), "_type": "ClassLabel"}}}}
        table = table.append_column("label", pyarrow.array([-1, 1, -1, -1]))
        table = table.replace_schema_metadata({"huggingface": json.dumps(kinds)})
    parquet.write_table(table, run_dir.dataset / "test.parquet", row_group_size=3)
    lines = classify(run_dir)
    assert [line["path"] for line in lines] == [f"test.parquet/000000{number}" for number in range(4)]
    assert [line["label"] for line in lines] == [None, "cross" if rows == "below_zero" else None, None, None]
    assert run_dir.read_result()["num_judged"] == (1 if rows == "below_zero" else 0)
    with pytest.raises(DatasetInvalid, match="label"):
        read_staged(run_dir.dataset)


@pytest.mark.parametrize("num_looks", [1, 3])
def test_a_stopped_one_goes_on_and_answers_the_same(ask, classify, monkeypatch, num_looks):
    monkeypatch.setattr(dataset_classification, "BATCH_SIZE", 2)
    whole = classify(ask("whole", num_images=3))
    run_dir = ask(num_images=3)
    with pytest.raises(TrainingStopped):
        classify(run_dir, StopAt(num_looks))
    assert run_dir.read_result() is None
    assert not run_dir.answers_file.exists()
    ((num_done, folder),) = run_dir.list_checkpoints()
    assert num_done == 2 * num_looks
    assert list(read_lines(folder / "results.jsonl")) == whole[:num_done]

    assert classify(run_dir) == whole
    assert f"Going on from image {num_done} of 12." in messages(run_dir)


@pytest.mark.parametrize("change", ["lines", "images"])
def test_a_checkpoint_that_does_not_fit_is_left_out(ask, classify, monkeypatch, change):
    monkeypatch.setattr(dataset_classification, "BATCH_SIZE", 2)
    run_dir = ask()
    with pytest.raises(TrainingStopped):
        classify(run_dir, StopAt(1))
    ((_, folder),) = run_dir.list_checkpoints()
    if change == "lines":
        (folder / "results.jsonl").write_text("{}\n")
    else:
        (run_dir.dataset / "circle/0.png").rename(run_dir.dataset / "circle/2.png")
    assert len(classify(run_dir)) == 8
    assert any("is left out" in message for message in messages(run_dir))


def test_checkpoints_are_kept_while_it_runs_and_the_older_ones_go(ask, classify, monkeypatch):
    monkeypatch.setattr(dataset_classification, "BATCH_SIZE", 2)
    monkeypatch.setattr(dataset_classification, "CHECKPOINT_SECONDS", -1.0)
    run_dir = ask()
    classify(run_dir)
    assert [num_done for num_done, _ in run_dir.list_checkpoints()] == [6, 8]
    told = [record.values["folder"] for record in run_dir.read_records()[0] if record.kind == "checkpoint"]
    assert told == ["step-000002", "step-000004", "step-000006", "step-000008"]


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        ({"algorithm": "coop", "trainable": "none"}, {"context": (4, 32)}),
        (
            {"algorithm": "cocoop", "trainable": "none"},
            {"context": (4, 32), "down.weight": (2, 32), "down.bias": (2,), "up.weight": (32, 2), "up.bias": (32,)},
        ),
        ({"algorithm": "finetune", "head": "linear"}, {"weight": (4, 32)}),
    ],
    ids=["coop", "cocoop", "linear"],
)
def test_what_was_learned_classifies_in_place_of_the_texts(ask, classify, tiny_base_model, texts, fields, shapes):
    run_dir = ask(num_images=1)
    learn(run_dir.asked_model, fields, shapes)
    model = open_model(str(run_dir.asked_model), tiny_base_model.folder.parent)
    text_encoder, classifier = build_text_encoder(tiny_base_model), Classifier.of(model)
    lines = classify(run_dir)
    for line in lines:
        features = classifier.image_features([decode_image((run_dir.dataset / line["path"]).read_bytes())])
        embeddings = model.class_embeddings_of(text_encoder, LABELS, image_features=features)
        expected = dict(zip(LABELS, classifier.probabilities(features, embeddings)[0].tolist(), strict=True))
        assert {each["label"]: pytest.approx(each["score"], abs=1e-5) for each in line["predictions"]} == expected
        by_texts = classifier.probabilities(features, torch.from_numpy(texts.class_embeddings))[0]
        assert not torch.allclose(torch.tensor(list(expected.values())), by_texts, atol=1e-5)


def learn(folder, fields, shapes):
    """What a job writes that learns more than the tower: `learned.classes.…` beside the tower's weights."""
    saved = load_model(folder)
    noise = torch.Generator().manual_seed(5)
    learned = {f"{LEARNED}{name}": torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    manifest = {name: value for name, value in saved.manifest.items() if not name.endswith("sha256")}
    save_model(folder, saved.weights | learned, manifest | {"config": manifest["config"] | fields})


@pytest.mark.parametrize(
    ("folder", "label"),
    [("red_panda", "red panda"), ("Red-Panda", "red panda"), ("couch", "sofa|couch"), ("n01", "ox")],
)
def test_a_folder_names_a_label_by_any_of_its_words(folder, label):
    line = {"path": "1", "label": folder, "predictions": [{"label": label, "score": 1.0}], "rejected": None}
    counted = count_answers([line], ("red panda", "sofa|couch", "ox"), {"n01": "ox"})
    assert (counted["num_judged"], counted["accuracy"]) == (1, 1.0)
    assert count_answers([line | {"label": "zebra"}], ("red panda", "ox"), {})["accuracy"] is None


@pytest.fixture
def _own_signals():
    """The process takes SIGTERM and SIGINT for itself."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_the_process_ends_with_the_codes_of_a_run_directory(ask, tiny_base_model):
    run_dir = ask()
    command = [str(run_dir.path), "--models-dir", str(tiny_base_model.folder.parent)]
    config = run_dir.read_classification()
    run_dir.write_classification(replace(config, base_model="none"))
    shutil.move(run_dir.asked_model, run_dir.path / "away")
    assert main(command) == EXIT_FAILED
    assert run_dir.read_error().code == "model_not_found"
    run_dir.write_classification(config)
    assert main(command) == EXIT_DONE  # the base model: zero-shot
    assert run_dir.read_error() is None
    assert run_dir.is_complete
    before = run_dir.result_file.stat().st_mtime_ns
    assert main(command) == EXIT_DONE
    assert run_dir.result_file.stat().st_mtime_ns == before
