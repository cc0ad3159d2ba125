import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignclip_core.config import FinetuneConfig
from alignclip_core.errors import ArtifactCorrupt, ConfigInvalid
from alignclip_core.run_dir import MANIFEST_FILE, ClassSimilarity, Record, RunDir, TrainerError, write_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def similarity():
    embeddings = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 3)))[0].T.astype(np.float32)
    return ClassSimilarity(
        class_names=("cat", "Löwe", "dog"),
        templates=("a {}.",),
        text_model="text",
        class_embeddings=embeddings,
        cosine=(embeddings @ embeddings.T),
    )


def test_a_config_comes_back_as_it_was_written(run_dir):
    config = FinetuneConfig(base_model="starter", class_names={"a": "A", "b": "B"}, crop_scale=(0.5, 0.9))
    run_dir.write_config(config)
    assert run_dir.read_config() == config


def test_a_missing_config_is_named(run_dir):
    with pytest.raises(ConfigInvalid, match=r"inputs/config\.json is missing"):
        run_dir.read_config()


@pytest.mark.parametrize("content", ["{", "[]", '{"base_model": "starter"}'])
def test_a_config_that_is_none_is_refused(run_dir, content):
    write_file(run_dir.config_file, content.encode())
    with pytest.raises(ConfigInvalid):
        run_dir.read_config()


def test_test_datasets_are_known_by_folder_or_list(run_dir):
    assert run_dir.test_datasets == ()
    run_dir.test_dataset("v2-a").mkdir(parents=True)
    write_file(run_dir.test_dataset("v2-a").with_suffix(".json"), b"{}")
    write_file(run_dir.test_dataset("streamed").with_suffix(".json"), b"{}")
    run_dir.write_test_class_names("v2-a", {"n01": "goldfish"})
    run_dir.dataset.mkdir()
    assert run_dir.test_datasets == ("streamed", "v2-a")
    assert run_dir.read_test_class_names("v2-a") == {"n01": "goldfish"}
    assert run_dir.read_test_class_names("streamed") is None


def test_records_come_back_in_order_and_can_be_followed(run_dir):
    run_dir.path.mkdir()
    assert run_dir.read_records() == ([], 0)
    first = Record(step=1, kind="train", values={"loss": 0.5})
    second = Record(step=1, kind="event", values={"level": "info", "message": "zwölf\nLeerzeilen"})
    run_dir.append_record(first)
    records, offset = run_dir.read_records()
    assert records == [first]
    run_dir.append_record(second)
    assert run_dir.read_records(offset)[0] == [second]
    assert run_dir.read_records(run_dir.read_records(offset)[1])[0] == []


def test_half_a_line_is_left_for_later(run_dir):
    run_dir.path.mkdir()
    record = Record(step=1, kind="train", values={"loss": 0.5})
    run_dir.append_record(record)
    line = run_dir.metrics_file.read_bytes()
    with run_dir.metrics_file.open("ab") as file:
        file.write(line[:20])
    records, offset = run_dir.read_records()
    assert (records, offset) == ([record], len(line))
    with run_dir.metrics_file.open("ab") as file:
        file.write(line[20:])
    assert run_dir.read_records(offset)[0] == [record]


def test_what_a_killed_trainer_left_of_a_line_is_cut_off_before_the_next_appends(run_dir):
    run_dir.path.mkdir()
    run_dir.drop_partial_record()  # nothing there yet
    first, second = (Record(step=step, kind="train", values={}) for step in (1, 2))
    run_dir.append_record(first)
    with run_dir.metrics_file.open("ab") as file:
        file.write(b'{"step": 2, "kin')
    run_dir.drop_partial_record()
    run_dir.append_record(second)
    assert run_dir.read_records()[0] == [first, second]
    run_dir.drop_partial_record()
    assert run_dir.read_records()[0] == [first, second]


def test_an_error_comes_back_as_it_was_written(run_dir):
    assert run_dir.read_error() is None
    error = TrainerError(code="invalid_image", message="bad", param="training_file", traceback="...")
    run_dir.write_error(error)
    assert run_dir.read_error() == error


def test_only_complete_checkpoints_are_listed_oldest_first(run_dir):
    for name in ("step-000100", "step-000020", "step-1000000", ".step-000200.7.part", "step-x", "step-000300"):
        (run_dir.checkpoints / name).mkdir(parents=True)
        if name != "step-000300":
            (run_dir.checkpoints / name / MANIFEST_FILE).write_text("{}")
    assert [step for step, _ in run_dir.list_checkpoints()] == [20, 100, 1_000_000]
    assert run_dir.checkpoint_folder(20) == run_dir.list_checkpoints()[0][1]


def test_the_newest_checkpoints_and_the_most_accurate_are_not_superseded(run_dir):
    for step, accuracy in ((10, 0.0), (20, 0.5), (30, 0.5), (40, None), (50, 0.25), (60, 0.25)):
        run_dir.checkpoint_folder(step).mkdir(parents=True)
        manifest = json.dumps({"validation_accuracy": accuracy})
        (run_dir.checkpoint_folder(step) / MANIFEST_FILE).write_text(manifest)
    assert [path.name for path in run_dir.superseded_checkpoints(2)] == [
        "step-000010", "step-000020", "step-000040"
    ]  # fmt: skip


def test_a_model_is_there_when_its_manifest_is(run_dir):
    assert run_dir.read_manifest() is None
    run_dir.model.mkdir(parents=True)
    assert run_dir.read_manifest() is None
    (run_dir.model / MANIFEST_FILE).write_text('{"step": 3}')
    assert run_dir.read_manifest() == {"step": 3}


def test_a_written_file_replaces_the_old_one_and_leaves_no_other(tmp_path):
    write_file(tmp_path / "a" / "file.json", b"old")
    write_file(tmp_path / "a" / "file.json", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a").iterdir()] == [("file.json", b"new")]


def test_a_similarity_comes_back_with_its_hash(tmp_path, similarity):
    similarity.save(tmp_path / "similarity.safetensors")
    loaded = ClassSimilarity.load(tmp_path / "similarity.safetensors")
    assert loaded.sha256 == similarity.sha256
    assert loaded.class_names == similarity.class_names
    assert loaded.templates == similarity.templates
    assert np.array_equal(loaded.class_embeddings, similarity.class_embeddings)
    assert np.array_equal(loaded.cosine, similarity.cosine)


@pytest.mark.parametrize(
    "change",
    [{"class_names": ("cat", "dog", "Löwe")}, {"templates": ("{}",)}, {"text_model": "other"}, {"cosine": np.eye(3)}],
)
def test_the_hash_covers_names_templates_text_model_and_matrix(similarity, change):
    assert dataclasses.replace(similarity, **change).sha256 != similarity.sha256


def test_a_matrix_that_was_changed_is_found(tmp_path, similarity):
    path = tmp_path / "similarity.safetensors"
    similarity.save(path)
    tensors = load_file(path)
    tensors["cosine"][0, 1] += 1e-4
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    save_file(tensors, path, metadata=header["__metadata__"])
    with pytest.raises(ArtifactCorrupt, match="hash"):
        ClassSimilarity.load(path)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_similarity_file_that_cannot_be_read_is_corrupt(tmp_path, content):
    (tmp_path / "similarity.safetensors").write_bytes(content)
    with pytest.raises(ArtifactCorrupt):
        ClassSimilarity.load(tmp_path / "similarity.safetensors")


def test_the_contract_in_words_names_every_file_and_record(run_dir):
    text = (ROOT / "docs" / "run_directory.md").read_text()
    properties = [getattr(run_dir, name) for name, value in vars(RunDir).items() if isinstance(value, property)]
    paths = [value.relative_to(run_dir.path) for value in properties if isinstance(value, Path)]
    assert len(paths) > 8
    for path in paths:
        assert str(path) in text, f"{path} is missing in docs/run_directory.md"
    for kind in ("phase", "train", "evaluation", "checkpoint", "event"):
        assert f"`{kind}`" in text
    for field in ("weights_sha256", "similarity_sha256", "resume_sha256", "format_version"):
        assert f"`{field}`" in text
    for code in ("0", "1", "75"):
        assert f"| {code} |" in text
