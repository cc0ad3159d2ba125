import contextlib
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from alignclip_core.base_models import WEIGHTS_FILE as BASE_WEIGHTS_FILE
from alignclip_core.checkpoint import load_model
from alignclip_core.classifier import Classifier
from alignclip_core.encoder import build_text_encoder
from alignclip_core.errors import AlignClipError, OutOfMemory
from alignclip_core.evaluation import headline, without_details
from alignclip_core.finished_model import load_finished_model
from alignclip_core.prompts import class_similarity_of
from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ClassSimilarity, RunDir
from alignclip_core.run_process import describe_error
from alignclip_core.train import main, train

WAIT_SECONDS = 120.0
SHAPES = ("circle", "cross", "square", "triangle")
# Of the runs that are held in a step, some steps after a checkpoint.
HELD = {"num_steps": 20, "global_batch_size": 4, "evaluate_every_steps": 1000, "checkpoint_every_steps": 8}


@pytest.fixture(autouse=True)
def _one_thread():
    """Bit for bit equality needs equal numbers of threads; here one, as the started trainers get."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def models_dir(tiny_base_model):
    return tiny_base_model.folder.parent


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, write_run, models_dir):
    """The finished run of HELD that nothing disturbed."""
    torch.set_num_threads(1)
    run_dir = write_run(tmp_path_factory.mktemp("uninterrupted") / "run", **HELD)
    finish(run_dir, models_dir)
    return run_dir


@pytest.fixture
def run_main(models_dir):
    """run_main(run_dir): the trainer's main function in this process; its exit code."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda run_dir: main([str(run_dir.path), "--models-dir", str(models_dir)])
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start(models_dir):
    """start(run_dir, *options, **environment): a trainer process; killed at the test's end if it still runs."""
    started: list[subprocess.Popen] = []

    def start_trainer(run_dir: RunDir, *options: str, **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "alignclip_core.train", str(run_dir.path), "--models-dir", str(models_dir)]
        with run_dir.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--threads", "1", *options],
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
            )
        started.append(process)
        return process

    yield start_trainer
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()


def wait_for(condition, process: subprocess.Popen, run_dir: RunDir) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, f"The trainer ended by itself:\n{run_dir.log_file.read_text()}"
        assert time.monotonic() < deadline, f"The trainer took too long:\n{run_dir.log_file.read_text()}"
        time.sleep(0.02)


def records(run_dir: RunDir, kind: str) -> list:
    return [record for record in run_dir.read_records()[0] if record.kind == kind]


def finish(run_dir: RunDir, models_dir: Path) -> None:
    train(run_dir, models_dir=models_dir, stop=threading.Event())


def assert_same_model(first: RunDir, second: RunDir) -> None:
    one, other = load_model(first.model), load_model(second.model)
    assert one.manifest["weights_sha256"] == other.manifest["weights_sha256"]
    for manifest in (one.manifest, other.manifest):
        manifest["result"]["trained"].pop("seconds")  # the one thing that may differ
    assert one.manifest["result"] == other.manifest["result"]


@pytest.mark.parametrize(
    ("fields", "modules"),
    [
        ({"algorithm": "coop"}, ["learned.classes"]),
        ({"algorithm": "coral"}, ["visual.transformer"]),
        ({"algorithm": "miro"}, ["learned.variances", "visual.transformer"]),
        ({"algorithm": "wise_ft", "evaluate_every_steps": 1}, ["visual.transformer"]),
        ({"algorithm": "finetune", "head": "linear"}, ["learned.classes", "visual.transformer"]),
    ],
    ids=["coop", "coral", "miro", "wise_ft", "linear"],
)
def test_a_baseline_leaves_a_model_that_serves_its_labels_and_others(
    make_run, run_main, tiny_base_model, fields, modules
):
    run_dir = make_run(domains=("plain", "dotted"), num_images=3, num_steps=2, **fields)
    assert run_main(run_dir) == EXIT_DONE, run_dir.read_error()
    trained = run_dir.read_manifest()["result"]["trained"]
    assert set(modules) <= set(trained["modules"])
    assert trained["num_parameters"] > 0 < trained["seconds"]
    kept = "interpolated" if fields["algorithm"] == "wise_ft" else "raw"
    assert kept in records(run_dir, "evaluation")[-1].values

    model = load_finished_model(run_dir.model, tiny_base_model)
    assert (model.learned_classes is not None) == ("learned.classes" in modules)
    picture = Image.new("RGB", (40, 32), "navy")
    for labels in (list(SHAPES), ["zebra", "ladder", "blue sky"]):
        embeddings = model.class_embeddings_of(build_text_encoder(tiny_base_model), labels)
        found = Classifier.load(run_dir.model, tiny_base_model).classify([picture], embeddings)
        assert found.shape == (1, len(labels))
        assert found.sum().item() == pytest.approx(1)


def test_a_run_leaves_metrics_checkpoints_and_a_model_that_serves(
    make_run, start, tiny_base_model, run_main, draw_dataset, tmp_path
):
    run_dir = make_run(
        domains=("plain", "dotted"),
        test_domains=("dotted",),
        unseen_classes=("circle", "cross"),
        num_steps=20,
        num_images=6,
    )
    assert start(run_dir).wait(WAIT_SECONDS) == EXIT_DONE, run_dir.log_file.read_text()

    phases = [record.values["phase"] for record in records(run_dir, "phase")]
    assert phases == ["loading", "evaluating_zero_shot", "training", "evaluating", "saving"]
    assert [record.step for record in records(run_dir, "train")] == list(range(1, 21))
    evaluations = records(run_dir, "evaluation")
    assert [record.step for record in evaluations] == list(range(0, 21, 2))
    assert evaluations[0].values.keys() == {"zero_shot"}
    assert evaluations[-1].values.keys() == {"raw", "bma"}
    assert [record.values["folder"] for record in records(run_dir, "checkpoint")] == [
        "step-000005", "step-000010", "step-000015", "step-000020"
    ]  # fmt: skip
    accuracies = {record.step: record.values["bma"]["accuracy"] for record in evaluations[1:-1]}
    _, best = max((accuracies[step // 2 * 2 if step < 20 else 18], step) for step in (5, 10, 15, 20))
    assert [step for step, _ in run_dir.list_checkpoints()] == sorted({best, 15, 20})

    manifest = run_dir.read_manifest()
    result = manifest["result"]
    for evaluated in (result["zero_shot"], result["tuned"]):
        assert evaluated.keys() == {"trained_domains", "test_domains"}
        for groups in evaluated.values():
            assert groups.keys() == {"trained_classes", "unseen_classes", "all_classes"}
    assert result["headline"] == headline(result["zero_shot"], result["tuned"])
    source_validation = result["tuned"]["trained_domains"]["trained_classes"]
    assert evaluations[-1].values["bma"] == without_details(source_validation)
    assert manifest["similarity_sha256"] == ClassSimilarity.load(run_dir.similarity_file).sha256
    assert manifest["class_names"] == {name: name for name in SHAPES}
    assert manifest["trained_classes"] == ["square", "triangle"]
    assert run_dir.read_error() is None

    # The model's own figure, found again with nothing but the model and the pictures.
    assert _accuracy(run_dir, tiny_base_model) == result["tuned"]["test_domains"]["all_classes"]["accuracy"]

    # And a second start has nothing to do.
    before = run_dir.metrics_file.read_bytes()
    assert run_main(run_dir) == EXIT_DONE
    assert run_dir.metrics_file.read_bytes() == before


def _accuracy(run_dir: RunDir, base_model) -> float:
    classifier = Classifier.load(run_dir.model, base_model)
    embeddings = torch.from_numpy(ClassSimilarity.load(run_dir.similarity_file).class_embeddings)
    hits = []
    for path in sorted((run_dir.dataset / "dotted").glob("*/*.png")):
        probabilities = classifier.classify([Image.open(path).convert("RGB")], embeddings)
        hits.append(SHAPES[int(probabilities.argmax())] == path.parent.name)
    return sum(hits) / len(hits)


def test_a_killed_run_goes_on_and_equals_one_that_was_not_killed(make_run, start, hold_step, uninterrupted):
    killed, step = make_run(**HELD), hold_step(12)
    process = start(killed, **step.environment)
    wait_for(step.is_reached, process, killed)
    assert records(killed, "checkpoint")
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert killed.read_manifest() is None
    with killed.metrics_file.open("ab") as file:
        file.write(b'{"step": 3, "ki')  # a line that the kill may cut off

    assert start(killed).wait(WAIT_SECONDS) == EXIT_DONE, killed.log_file.read_text()
    assert_same_model(uninterrupted, killed)
    going_on = [r.values["message"] for r in records(killed, "event") if "Going on" in r.values["message"]]
    assert len(going_on) == 1
    losses = {record.step: record.values["loss"] for record in records(killed, "train")}
    assert losses == {record.step: record.values["loss"] for record in records(uninterrupted, "train")}
    phases = [record.values["phase"] for record in records(killed, "phase")]
    assert phases.count("evaluating_zero_shot") == 1  # kept in the checkpoint


def test_sigterm_ends_a_supervised_run_after_a_checkpoint_and_it_goes_on(
    make_run, start, hold_step, models_dir, uninterrupted
):
    stopped, step = make_run(**HELD), hold_step(14)
    process = start(stopped, "--supervised", **step.environment)
    with _beating(process):
        wait_for(step.is_reached, process, stopped)
        process.terminate()
        step.release()
        assert process.wait(WAIT_SECONDS) == EXIT_STOPPED, stopped.log_file.read_text()
    last_step = records(stopped, "train")[-1].step
    assert last_step == 14
    assert stopped.list_checkpoints()[-1][0] == last_step
    assert records(stopped, "checkpoint")[-1].step == last_step
    assert stopped.read_manifest() is None
    assert stopped.read_error() is None

    finish(stopped, models_dir)
    assert_same_model(uninterrupted, stopped)


def test_a_stop_before_the_first_step_leaves_a_run_that_can_begin_anew(make_run, models_dir, run_main):
    run_dir = make_run(num_steps=2)
    stop = threading.Event()
    stop.set()
    with pytest.raises(AlignClipError, match="Stopped after step 0 of 2"):
        train(run_dir, models_dir=models_dir, stop=stop)
    assert run_dir.list_checkpoints() == []
    assert run_main(run_dir) == EXIT_DONE


def test_a_damaged_checkpoint_is_left_out_and_the_one_before_it_taken(make_run, models_dir):
    damaged = make_run(num_steps=8)
    finish(damaged, models_dir)
    whole = load_model(damaged.model)
    shutil.rmtree(damaged.model)
    weights = damaged.checkpoint_folder(8) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    finish(damaged, models_dir)
    messages = [record.values["message"] for record in records(damaged, "event")]
    assert any("step-000008 is left out" in message for message in messages)
    assert any("Going on from step 6" in message for message in messages)
    assert load_model(damaged.model).manifest["weights_sha256"] == whole.manifest["weights_sha256"]


def test_a_checkpoint_of_other_settings_is_refused_by_name(make_run, models_dir, run_main):
    run_dir = make_run(num_steps=4)
    assert run_main(run_dir) == EXIT_DONE
    shutil.rmtree(run_dir.model)
    values = json.loads(run_dir.config_file.read_text())
    run_dir.config_file.write_text(json.dumps(values | {"learning_rate": 0.5, "log_every_steps": 3}))
    assert run_main(run_dir) == EXIT_FAILED
    error = run_dir.read_error()
    assert (error.code, error.param) == ("invalid_config", "learning_rate")
    assert "learning_rate=0.001, the config says 0.5" in error.message


def test_how_it_is_watched_may_change_between_two_runs(make_run, models_dir):
    run_dir = make_run(num_steps=4)
    finish(run_dir, models_dir)
    shutil.rmtree(run_dir.model)
    values = json.loads(run_dir.config_file.read_text())
    run_dir.config_file.write_text(json.dumps(values | {"evaluate_every_steps": 3, "num_loader_workers": 1}))
    finish(run_dir, models_dir)
    assert run_dir.read_manifest()["step"] == 4


def test_zero_shot_trains_nothing_and_keeps_the_base_weights(make_run, models_dir, tiny_base_model):
    run_dir = make_run(algorithm="zero_shot", num_steps=0)
    finish(run_dir, models_dir)
    saved = load_model(run_dir.model)
    base = load_file(tiny_base_model.folder / BASE_WEIGHTS_FILE)
    assert saved.weights
    assert all(torch.equal(value, base[name]) for name, value in saved.weights.items())
    assert saved.manifest["result"]["zero_shot"] == saved.manifest["result"]["tuned"]
    assert records(run_dir, "train") == records(run_dir, "checkpoint") == []


def test_a_given_validation_set_is_what_is_evaluated(make_run, models_dir, draw_dataset):
    run_dir = make_run(num_steps=1, num_images=2)
    draw_dataset(run_dir.validation, num_images=3)
    finish(run_dir, models_dir)
    validated = run_dir.read_manifest()["result"]["tuned"]["trained_domains"]["trained_classes"]
    assert validated["num_images"] == 12
    assert "8 images of 4 classes train, 12 validate" in records(run_dir, "event")[0].values["message"]


def test_metrics_are_thinned_as_the_config_says(make_run, models_dir):
    run_dir = make_run(num_steps=5, log_every_steps=2)
    finish(run_dir, models_dir)
    assert [record.step for record in records(run_dir, "train")] == [2, 4, 5]


def test_the_matrix_among_the_inputs_is_the_one_that_is_used(make_run, models_dir, tiny_base_model):
    run_dir = make_run(num_steps=1)
    made = class_similarity_of(build_text_encoder(tiny_base_model), SHAPES, ("a photo of a {}.",))
    altered = ClassSimilarity(
        class_names=made.class_names,
        templates=made.templates,
        text_model=made.text_model,
        class_embeddings=made.class_embeddings,
        cosine=np.eye(4, dtype=np.float32),
    )
    altered.save(run_dir.similarity_file)
    finish(run_dir, models_dir)
    assert run_dir.read_manifest()["similarity_sha256"] == altered.sha256 != made.sha256
    other = make_run("other", num_steps=1)
    finish(other, models_dir)
    assert ClassSimilarity.load(other.similarity_file).sha256 == made.sha256
    loss, other_loss = (records(each, "train")[0].values["smoothing_loss"] for each in (run_dir, other))
    assert loss != other_loss


def test_a_matrix_of_other_classes_is_refused(make_run, run_main, tiny_base_model):
    run_dir = make_run()
    names = ("cat", "dog", "square", "triangle")
    class_similarity_of(build_text_encoder(tiny_base_model), names, ("a photo of a {}.",)).save(run_dir.similarity_file)
    assert run_main(run_dir) == EXIT_FAILED
    error = run_dir.read_error()
    assert error.code == "artifact_corrupt"
    assert "class_names" in error.message


def test_a_bad_image_ends_the_run_and_is_named(make_run, run_main):
    run_dir = make_run()
    (run_dir.dataset / "square" / "1.png").write_bytes(b"not an image")
    assert run_main(run_dir) == EXIT_FAILED
    error = run_dir.read_error()
    assert (error.code, error.param) == ("invalid_image", "training_file")
    assert error.message.startswith("square/1.png: The bytes are no image of a known format")
    assert "Traceback" in error.traceback
    assert run_dir.read_manifest() is None
    # Repaired, the same command goes on, and the error is gone.
    shutil.copy(run_dir.dataset / "square" / "2.png", run_dir.dataset / "square" / "1.png")
    assert run_main(run_dir) == EXIT_DONE
    assert run_dir.read_error() is None


def test_bad_images_are_left_out_and_listed_where_the_config_allows_it(make_run, models_dir):
    run_dir = make_run(num_steps=6, skip_bad_images=True)
    (run_dir.dataset / "square" / "1.png").write_bytes(b"not an image")
    finish(run_dir, models_dir)
    messages = [record.values["message"] for record in records(run_dir, "event")]
    assert "square/1.png is left out: The bytes are no image of a known format; send one of JPEG" in messages[0][:90]


def test_a_run_that_diverges_names_the_step(make_run, run_main, models_dir, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(models_dir, broken)
    weights = load_file(broken / "tiny" / BASE_WEIGHTS_FILE)
    weights["visual.transformer.resblocks.7.mlp.c_fc.bias"][:] = 3e38  # finite, and no more after one product
    save_file(weights, broken / "tiny" / BASE_WEIGHTS_FILE)
    run_dir = make_run(validation_fraction=0.0)
    assert main([str(run_dir.path), "--models-dir", str(broken)]) == EXIT_FAILED
    error = run_dir.read_error()
    assert (error.code, error.param) == ("training_diverged", "learning_rate")
    assert "Not finite after step 1 of 8: the loss" in error.message
    assert run_dir.list_checkpoints() == []


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda run: run.config_file.unlink(), "invalid_config", "config.json is missing"),
        (lambda run: shutil.rmtree(run.dataset / "cross"), "invalid_dataset", "no images of class 'cross'"),
        (lambda run: _set(run, base_model="huge"), "model_not_found", "No base model 'huge'"),
        (lambda run: _set(run, num_steps="many"), "invalid_config", "num_steps must be a whole number"),
        (lambda run: _set(run, num_aligned_layers=50), "invalid_config", "num_aligned_layers is 50"),
        (lambda run: _set(run, frozen_modules=["nose"]), "invalid_config", "nose"),
        (lambda run: _set(run, test_domains=["art"]), "invalid_dataset", "no domain folders"),
    ],
)
def test_inputs_that_cannot_be_used_are_named_in_the_error_file(make_run, run_main, change, code, message):
    run_dir = make_run()
    change(run_dir)
    assert run_main(run_dir) == EXIT_FAILED
    error = run_dir.read_error()
    assert error.code == code
    assert message in error.message
    assert not run_dir.model.exists()


def _set(run_dir: RunDir, **values) -> None:
    run_dir.config_file.write_text(json.dumps(json.loads(run_dir.config_file.read_text()) | values))


def test_a_full_disk_is_named_and_what_was_saved_before_stays(make_run, run_main):
    run_dir = make_run(num_steps=4, checkpoint_every_steps=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the nearest thing to a full disk
    try:
        assert run_main(run_dir) == EXIT_FAILED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = run_dir.read_error()
    assert error.code == "disk_full"
    assert "free some space" in error.message
    assert run_dir.list_checkpoints() == []
    assert not list(run_dir.checkpoints.glob(".*"))
    assert run_main(run_dir) == EXIT_DONE


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
def test_too_little_memory_comes_with_advice(error):
    described = describe_error(error)
    assert described.code == OutOfMemory.code
    assert described.param == "global_batch_size"
    assert "smaller global_batch_size" in described.message


def test_an_error_that_nobody_foresaw_is_described_with_its_traceback(caplog):
    caplog.set_level(logging.CRITICAL)
    try:
        raise KeyError("surprise")
    except KeyError as error:
        described = describe_error(error)
    assert described.code == "internal_error"
    assert described.message == "KeyError: 'surprise'"
    assert "test_train_process.py" in described.traceback


WATCHED = """
import os, sys, time
from alignclip_core.parent_watch import die_with_parent, watch_heartbeat
{call}
print("ready", flush=True)
time.sleep(60)
"""


def test_a_trainer_ends_when_its_supervisor_closes_the_pipe():
    process = _start_watched("watch_heartbeat(0, 30.0)")
    process.stdin.close()
    assert process.wait(WAIT_SECONDS) == EXIT_FAILED


def test_a_trainer_ends_when_its_supervisor_falls_silent():
    silence_seconds = 0.5
    while True:
        with _start_watched(f"watch_heartbeat(0, {silence_seconds})") as process:
            if _beat(process, 1.2) < silence_seconds:
                assert process.poll() is None
                assert process.wait(WAIT_SECONDS) == EXIT_FAILED
                return
            process.kill()  # a busy machine held this process up, and its silence meanwhile says nothing


@contextlib.contextmanager
def _beating(process: subprocess.Popen) -> Iterator[None]:
    """Writes to its stdin as a supervisor does, while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        with contextlib.suppress(BrokenPipeError):
            while not ended.wait(0.1):
                process.stdin.write(b".")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(process: subprocess.Popen, seconds: float) -> float:
    """Write a byte now and then for so long; how many seconds lay between two of them at most."""
    began = last = time.monotonic()
    longest = 0.0
    while last - began < seconds:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b".")
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        time.sleep(0.05)
    return longest


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_trainer_dies_with_a_supervisor_that_is_killed():
    supervisor = """
import os, subprocess, sys
watched = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE)
print(watched.pid, flush=True)
watched.wait()
"""
    program = WATCHED.format(call="die_with_parent(os.getppid())")
    process = subprocess.Popen([sys.executable, "-c", supervisor, program], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert process.stdout.read() == ""  # returns when the last holder of the pipe is gone
    process.stdout.close()
    deadline = time.monotonic() + WAIT_SECONDS
    while not _is_dead(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_dead(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # in a container, init may not reap it
    except psutil.NoSuchProcess:
        return True


def test_a_trainer_whose_supervisor_died_before_it_asked_ends_at_once():
    program = WATCHED.format(call="die_with_parent(1)")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == EXIT_FAILED


def _start_watched(call: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED.format(call=call)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process
