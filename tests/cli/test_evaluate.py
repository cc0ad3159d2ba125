"""`alignclip evaluate`: grids of real trainers, stopped in the middle, gone on with, and no cell run twice."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

from alignclip_core.encoder.plain_resnet import AS_TORCHVISION, write_folder

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))
BUDGET = ["--set", "global_batch_size=4", "--set", "evaluate_every_steps=50", "--set", "validation_fraction=0.34"]


@pytest.fixture
def start_evaluate(tmp_path):
    """A function that starts `alignclip evaluate` in the test's own folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
    environment |= {"ALIGNCLIP_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def start(*arguments):
        command = [ALIGNCLIP, "evaluate", *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def finished(process):
    shown, words = process.communicate(timeout=400)
    return process.returncode, shown, words


def rows_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_cells_are_run_once_and_their_commands_say_how(start_evaluate, pictures, tmp_path):
    asked = [pictures, "--protocol", "domain_shift", "--target", "light", "--seed", "1", "--images-per-class", "4"]
    asked += [*BUDGET, "--set", "num_steps=2", "--parallel", "2", "--output", "grid", "--no-keep-models"]
    code, shown, words = finished(start_evaluate(*asked, "--method", "zero_shot", "--method", "finetune"))
    assert code == 0, words
    assert "domain shift on pictures" in shown
    first, second = sorted(rows_of(tmp_path / "grid"), key=lambda row: row["num_steps"])
    assert (first["method"], first["n"], first["target"], first["trained"]) == ("zero_shot", 16, "light", "nothing")
    assert second["num_steps"] == 2
    assert first["accuracy"] == first["zero_shot"] == second["zero_shot"]
    assert first["split_sha256"] == second["split_sha256"]
    assert second["command"].endswith("--method finetune --seed 1 --target light")
    assert "| finetune |" in (tmp_path / "grid/tables.md").read_text()
    assert not list((tmp_path / "grid").rglob("*weights.safetensors"))

    code, shown, words = finished(start_evaluate(*asked, "--method", "zero_shot", "--method", "finetune"))
    assert (code, len(rows_of(tmp_path / "grid"))) == (0, 2)
    assert "2/2" in words
    code, _, words = finished(start_evaluate(*asked, "--method", "finetune", "--set", "smoothing=0.2"))
    assert code == 1
    assert "was begun with smoothing=0.0, now it is 0.2" in words
    code, _, words = finished(start_evaluate(*asked, "--method", "finetune", "--images-per-class", "3"))
    assert code == 1
    assert "was begun on other images of that dataset's name" in words


def test_grid_is_stopped_and_goes_on_and_the_model_is_tested_elsewhere(start_evaluate, pictures, tmp_path, wait_until):
    other = tmp_path / "outlines.zip"
    shutil.make_archive(str(other.with_suffix("")), "zip", pictures / "light")
    (tmp_path / "outlines.classes.json").write_text(json.dumps({"bar": "horizontal line"}))
    asked = [pictures, other, "--protocol", "dataset_shift", "--seed", "0", "--method", "finetune", *BUDGET]
    asked += ["--set", "num_steps=12", "--set", "checkpoint_every_steps=12", "--output", "grid", "--threads", "1"]
    metrics = tmp_path / "grid/runs/starter/pictures/dataset_shift/source/finetune/seed-0/metrics.jsonl"
    with start_evaluate(*asked) as stopped:
        wait_until(lambda: metrics.is_file() and '"kind": "train"' in metrics.read_text())
        stopped.send_signal(signal.SIGINT)
        code, _, words = finished(stopped)
    assert code == 75, words
    assert "goes on from there" in words
    assert list(metrics.parent.glob("checkpoints/step-*"))

    code, shown, words = finished(start_evaluate(*asked))
    assert code == 0, words
    steps = [
        record["step"] for record in map(json.loads, metrics.read_text().splitlines()) if record["kind"] == "train"
    ]
    assert steps == list(range(1, 13))
    assert {(row["target"], row["n"]) for row in rows_of(tmp_path / "grid")} == {("source", 8), ("outlines", 24)}
    assert (metrics.parent / "model/manifest.json").is_file()
    assert "dataset shift on pictures" in shown


def test_shards_train_and_a_manifest_that_is_named_tests(start_evaluate, pictures, tmp_path):
    (tmp_path / "shards").mkdir()
    for path in sorted(pictures.glob("ink/*/*.png")):
        with tarfile.open(tmp_path / f"shards/{path.parent.name}.tar", "a") as shard:
            for suffix, content in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                member = tarfile.TarInfo(f"{path.stem}.{suffix}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    shutil.copytree(pictures / "light", tmp_path / "light")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("light/*/*.png"))[:9]
    rows = [f"{name},{name.split('/')[1]}" for name in names]
    (tmp_path / "some.csv").write_text("\n".join(["image,label", *rows]))
    asked = ["shards", "some.csv", "--protocol", "dataset_shift", "--method", "zero_shot", "--seed", "0"]
    code, _, words = finished(start_evaluate(*asked, "--output", "grid"))
    assert code == 0, words
    found = {(row["dataset"], row["target"], row["n"]) for row in rows_of(tmp_path / "grid")}
    assert found == {("shards", "source", 4), ("shards", "some", 9)}


def test_a_table_of_the_paper_is_made_of_what_is_there_beside_its_own_figures(start_evaluate, pictures, tmp_path):
    shutil.copytree(pictures / "ink", tmp_path / "root/dtd")
    asked = ["--paper", "table5", "--data", "root", "--model", "starter", "--method", "zero_shot", "--seed", "0"]
    code, shown, words = finished(start_evaluate(*asked, "--output", "grid"))
    assert code == 0, words
    assert "The rest of table5 needs: " in words
    base, new = rows_of(tmp_path / "grid")
    told = {"method", "protocol", "target", "seed", "n", "accuracy", "command", "split", "split_sha256", "trained"}
    assert told <= base.keys() == new.keys()
    assert (base["protocol"], base["target"], new["target"]) == ("unseen_classes", "base", "new")
    asked_alone = "alignclip evaluate dtd --paper table5 --data root --method zero_shot --seed 0 --model starter"
    assert base["command"] == new["command"] == asked_alone
    tables = (tmp_path / "grid/tables.md").read_text()
    assert "## unseen classes on dtd" in tables
    assert "| zero_shot | " in tables
    assert "| CLIP zero-shot (paper) | 53.24 | 59.9 |" in tables
    (csv,) = (tmp_path / "grid/tables").glob("*.csv")
    lines = csv.read_text().splitlines()
    assert lines[0] == "method,base,new,H of averages,mean of H,seeds,trained"
    assert [line.split(",")[0] for line in lines[1:]] == ["zero_shot", "CLIP zero-shot (paper)"]
    assert "CLIP zero-shot (paper)" in shown


def test_erm_and_coral_of_a_resnet_without_texts_are_rows_as_any_other(start_evaluate, pictures, tmp_path):
    model = tmp_path / "home/models/resnet50-imagenet"
    model.mkdir(parents=True)
    width = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
    config = {"architecture": "resnet50", "model_args": width, "pretrained_cfg": AS_TORCHVISION}
    write_folder(model, config, timm.create_model("resnet50", num_classes=0, **width).state_dict())
    asked = [pictures, "--protocol", "domain_shift", "--target", "light", "--seed", "1", "--images-per-class", "4"]
    asked += [*BUDGET, "--set", "num_steps=2", "--output", "grid", "--model", "resnet50-imagenet"]
    methods = [f"{algorithm}:head=linear,linear_start=random" for algorithm in ("finetune", "coral")]
    code, _, words = finished(start_evaluate(*asked, "--method", methods[0], "--method", methods[1]))
    assert code == 0, words
    rows = rows_of(tmp_path / "grid")
    assert [row["method"] for row in rows] == methods
    assert {(row["base_model"], row["trained"], row["n"], row["zero_shot"]) for row in rows} == {
        ("resnet50-imagenet", "image tower and a linear head", 16, None)
    }
    assert "coral:head=linear" in (tmp_path / "grid/tables.md").read_text()

    code, _, words = finished(start_evaluate(*asked, "--method", "clipood"))
    assert code == 1
    assert "'resnet50-imagenet' has no text tower, so clipood with head text has nothing to classify by" in words
    asked = [pictures / "ink", pictures / "light", "--protocol", "dataset_shift", "--model", "resnet50-imagenet"]
    code, _, words = finished(start_evaluate(*asked, "--method", methods[0]))
    assert code == 1
    assert "the classes of other datasets would stay unknown to it" in words
    assert len(rows_of(tmp_path / "grid")) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{pictures}", "--protocol", "domain_drift"], "--protocol is 'domain_drift'; it may be domain_shift,"),
        (["nowhere", "--protocol", "few_shot"], "There is nothing at 'nowhere'"),
        (["{pictures}", "--protocol", "in_the_wild", "--target", "chalk"], "known: ink, light"),
        (["{pictures}", "--protocol", "few_shot", "--method", "alinclip"], "Unknown method 'alinclip'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(start_evaluate, pictures, arguments, words):
    given = [argument.format(pictures=pictures) for argument in arguments]
    code, _, said = finished(start_evaluate(*given))
    assert code == 1
    assert words in said
    assert "Traceback" not in said


def test_plan_shows_the_cells_and_trains_nothing(start_evaluate, pictures, tmp_path):
    asked = [pictures, "--protocol", "unseen_classes", "--plan", "--output", "grid"]
    code, shown, words = finished(start_evaluate(*asked))
    assert code == 0, words
    assert len([line for line in shown.splitlines() if line.endswith("to run")]) == 2 * 4 * 3
    assert not (tmp_path / "grid").exists()
