"""Several processes train one model: the same numbers as one, one set of files, and one end for all."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from alignclip_core.checkpoint import load_checkpoint, load_model
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.loading import SampleOrder
from alignclip_core.rank_processes import RankPlace, RankProcesses
from alignclip_core.ranks import Ranks
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir
from alignclip_core.train import train

WAIT_SECONDS = 300.0
ROOT = Path(__file__).parents[2]
WIDTH = 48  # of the tiny model
# Seven images: one process gets three of them and the other four. Micro batches of two do not fit evenly into either.
SHORT = {"num_steps": 4, "global_batch_size": 7, "micro_batch_size": 2, "averaging": "none", "learning_rate": 1e-4}
TORCHRUN = (
    "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"
)  # fmt: skip
SAME_WEIGHTS = ("disturbed_in_step_three", "smaller_from_step_three")
HELD = {"num_steps": 12, "global_batch_size": 4, "evaluate_every_steps": 1000, "checkpoint_every_steps": 6}


@pytest.fixture
def start(tiny_base_model):
    """start(run_dir, *options, launcher=(), **environment): a trainer; killed at the test's end if it still runs."""
    started: list[subprocess.Popen] = []

    def start_trainer(run_dir: RunDir, *options: str, launcher: tuple[str, ...] = (), **environment: str):
        command = [sys.executable, *launcher, "-m", "alignclip_core.train", str(run_dir.path)]
        with run_dir.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--models-dir", str(tiny_base_model.folder.parent), "--threads", "1", *options],
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start_trainer
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, process: subprocess.Popen, run_dir: RunDir) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, f"The trainer ended by itself:\n{run_dir.log_file.read_text()}"
        assert time.monotonic() < deadline, f"The trainer took too long:\n{run_dir.log_file.read_text()}"
        time.sleep(0.02)


def records(run_dir: RunDir, kind: str) -> list:
    return [record for record in run_dir.read_records()[0] if record.kind == kind]


def assert_close_models(first: RunDir, second: RunDir) -> None:
    one, other = load_model(first.model).weights, load_model(second.model).weights
    for name, value in one.items():
        if name.endswith("attn.in_proj_bias"):
            # A key's bias moves all scores of a softmax alike: its gradient is noise around 0, which AdamW blows up.
            value[WIDTH : 2 * WIDTH] = other[name][WIDTH : 2 * WIDTH]
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=2e-6)


def test_two_processes_equal_one_with_the_whole_batch(make_run, start, tiny_base_model):
    alone, together = make_run("alone", **SHORT), make_run("together", **SHORT)
    process = start(together, "--processes", "2")
    train(alone, models_dir=tiny_base_model.folder.parent, stop=threading.Event())
    assert process.wait(WAIT_SECONDS) == EXIT_DONE, together.log_file.read_text()
    assert_close_models(alone, together)
    for kind in ("phase", "train", "evaluation", "checkpoint"):
        assert len(records(together, kind)) == len(records(alone, kind)), kind  # rank 0 alone writes
    for one, other in zip(records(alone, "train"), records(together, "train"), strict=True):
        for name in ("loss", "smoothing_loss", "layer_alignment_loss", "similarity_alignment_loss", "accuracy"):
            assert other.values[name] == pytest.approx(one.values[name], rel=1e-4, abs=1e-6), name
    tuned = [run.read_manifest()["result"]["tuned"]["trained_domains"]["trained_classes"] for run in (alone, together)]
    assert tuned[0]["num_images"] == tuned[1]["num_images"]
    assert tuned[0]["loss"] == pytest.approx(tuned[1]["loss"], rel=1e-4)
    assert "2 processes on" in records(together, "event")[0].values["message"]


def test_a_stop_of_the_first_rank_stops_all_and_the_run_goes_on_bit_for_bit(make_run, start, hold_step):
    whole, stopped = make_run("whole", **HELD), make_run("stopped", **HELD)
    undisturbed = start(whole, launcher=TORCHRUN)
    held = hold_step(5)  # the third of one rank, while the other waits for it
    trainer = start(stopped, "--processes", "2", **held.environment)
    wait_for(held.is_reached, trainer, stopped)
    others = psutil.Process(trainer.pid).children()
    assert len(others) == 1
    trainer.send_signal(signal.SIGTERM)
    held.release()
    assert trainer.wait(WAIT_SECONDS) == EXIT_STOPPED, stopped.log_file.read_text()
    assert not any(other.is_running() for other in others)
    step, folder = stopped.list_checkpoints()[-1]
    assert step == records(stopped, "train")[-1].step < HELD["num_steps"]
    assert load_checkpoint(folder)[1]["step"] == step
    # Both ranks say at which step they stopped.
    assert stopped.log_file.read_text().count(f"Stopped after step {step} of {HELD['num_steps']}.") == 2

    assert start(stopped, "--processes", "2").wait(WAIT_SECONDS) == EXIT_DONE, stopped.log_file.read_text()
    assert undisturbed.wait(WAIT_SECONDS) == EXIT_DONE, whole.log_file.read_text()
    hashes = [run_dir.read_manifest()["weights_sha256"] for run_dir in (whole, stopped)]
    assert hashes[0] == hashes[1]


def test_a_rank_that_is_lost_is_told_with_its_exit_code(tmp_path):
    losses: queue.Queue = queue.Queue()
    others = RankProcesses([str(tmp_path)], 2, lambda *lost: losses.put(lost))
    try:
        (other,) = [child for child in psutil.Process().children() if str(tmp_path) in child.cmdline()]
        other.kill()
        assert losses.get(timeout=WAIT_SECONDS) == (1, -signal.SIGKILL)
    finally:
        others.end()


def test_what_ended_another_rank_is_what_the_run_says(make_run, start):
    run_dir = make_run(**HELD | {"validation_fraction": 0.0})
    config = run_dir.read_config()
    # Only the second rank reads this one in step 1: domains and classes are one, so the batch is in random order.
    from_second = _samples_of_step(run_dir, 1)[config.global_batch_size // 2 :]
    from_second[0].write_bytes(b"no picture")
    assert start(run_dir, "--processes", "2").wait(WAIT_SECONDS) == EXIT_FAILED
    error = run_dir.read_error()
    assert error.code == "invalid_image", error
    assert from_second[0].name in error.message


@pytest.fixture(scope="module")
def two_ranks(write_run, tiny_base_model, tmp_path_factory) -> list[dict]:
    """What two_ranks.py says of each of its scenes, on either rank; a batch of eight, all four of a rank at once."""
    folder = tmp_path_factory.mktemp("two-ranks")
    run_dir = write_run(folder / "run", num_steps=4, global_batch_size=8, evaluate_every_steps=1000)
    arguments = [str(run_dir.path), str(tiny_base_model.folder.parent), (folder / "meeting").as_uri()]
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("two_ranks.py")), *arguments],
            env=os.environ | {"RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        return [json.loads(process.communicate(timeout=WAIT_SECONDS)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()


def test_when_one_rank_runs_out_of_memory_all_go_on_with_smaller_micro_batches(two_ranks):
    for rank in two_ranks:
        (event,) = rank["disturbed_in_step_three"]["events"]
        assert event == [3, "Memory ran out; going on with 2 images at a time. The batch of 8 images stays."]
    # The half step that failed left no trace, and both ranks have the same weights to the bit.
    weights = {rank[scene]["weights"] for rank in two_ranks for scene in SAME_WEIGHTS}
    assert len(weights) == 1


def test_ranks_probe_to_one_micro_batch(two_ranks):
    assert [rank["probed"] for rank in two_ranks] == [2, 2]


def test_when_one_rank_has_no_memory_for_an_image_all_say_so(two_ranks):
    for rank in two_ranks:
        assert rank["room_for_none"].startswith("out_of_memory: Memory ran out on the device even with one image")


def test_every_rank_names_the_step_that_was_not_finite_on_one(two_ranks):
    for rank in two_ranks:
        assert "Not finite after step 2 of 4: the loss" in rank["not_finite_in_step_two"]


def test_shares_cover_the_batch_once_and_evenly():
    for total in (7, 8, 36):
        shares = [Ranks(rank, 3).share(total) for rank in range(3)]
        assert [place for share in shares for place in share] == list(range(total))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_alone_has_no_place():
    assert RankPlace.from_environment({}) is None
    assert RankPlace.from_environment({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) is None
    place = RankPlace(2, 4, 2, "file:///somewhere")
    assert RankPlace.from_environment(place.to_environment()) == place
    torchrun = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}
    assert RankPlace.from_environment(torchrun) == RankPlace(3, 4, 1, "env://")


def _samples_of_step(run_dir: RunDir, step: int) -> list[Path]:
    """The pictures of a step's batch, by position."""

    config = run_dir.read_config()
    split = split_dataset(read_layout(list_folder(run_dir.dataset)), config)
    samples = [split.samples[index] for index in split.train]
    order = SampleOrder([sample.domain for sample in samples], config)
    return [run_dir.dataset / samples[index].path for index in order.positions(step)]
