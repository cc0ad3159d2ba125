"""`alignclip train`: the trainer by hand, stopped by Ctrl-C and gone on with, with no service at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alignclip_core.base_models import find_base_model
from alignclip_core.config import make_config
from alignclip_core.run_dir import RunDir

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))


@pytest.fixture
def run_dir(pictures, tmp_path):
    """A run directory whose run is long enough to be stopped in its middle."""
    run = RunDir(tmp_path / "run")
    names = {name: name for name in ("bar", "circle", "square", "triangle")}
    given = {"num_steps": 24, "global_batch_size": 4, "evaluate_every_steps": 24, "checkpoint_every_steps": 24}
    given |= {"test_domains": ("light",), "validation_fraction": 0.34}
    run.write_config(make_config(find_base_model("starter", tmp_path), class_names=names, given=given))
    run.dataset.symlink_to(pictures, target_is_directory=True)
    return run


@pytest.fixture
def start_train(tmp_path):
    """A function that starts `alignclip train` on a run directory."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
    environment |= {"ALIGNCLIP_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def start(path):
        command = [ALIGNCLIP, "train", str(path), "--threads", "1"]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_run_is_stopped_by_ctrl_c_and_goes_on_to_its_end(run_dir, start_train, wait_until):
    with start_train(run_dir.path) as first:
        wait_until(lambda: any(record.kind == "train" for record in run_dir.read_records()[0]))
        first.send_signal(signal.SIGINT)
        _, words = first.communicate(timeout=400)
    assert first.returncode == 75
    assert "goes on from there" in words
    ((step, _),) = run_dir.list_checkpoints()
    assert 0 < step < 24
    assert run_dir.read_manifest() is None

    with start_train(run_dir.path) as second:
        shown, words = second.communicate(timeout=400)
    assert second.returncode == 0, words
    assert f"Model: {run_dir.model}" in shown
    assert {line.split()[0] for line in shown.splitlines()[1:-1]} == {"trained", "test"}
    steps = [record.step for record in run_dir.read_records()[0] if record.kind == "train"]
    assert steps == list(range(1, 25))


def test_failed_run_tells_the_trainers_reason(run_dir, start_train):
    config = json.loads(run_dir.config_file.read_text())
    run_dir.config_file.write_text(json.dumps(config | {"test_domains": ["nowhere"]}))
    with start_train(run_dir.path) as failed:
        _, words = failed.communicate(timeout=400)
    assert failed.returncode == 1
    assert "nowhere" in words
    assert str(run_dir.log_file) in words
    assert "Traceback" not in words


@pytest.mark.parametrize("missing", ["inputs/config.json", "inputs/dataset"])
def test_missing_inputs_are_named_before_a_trainer_starts(run_dir, start_train, missing):
    (run_dir.path / missing).unlink()
    with start_train(run_dir.path) as refused:
        _, words = refused.communicate(timeout=400)
    assert refused.returncode == 1
    assert str(run_dir.path / missing) in words
    assert not run_dir.log_file.exists()
