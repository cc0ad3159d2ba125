"""What the end of a trainer means, and what a trainer is told at its start."""

import json
import os
import signal

import pytest
from pydantic import ValidationError

from alignclip_core.run_dir import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, RunDir, TrainerError
from alignclip_store.settings import Settings
from worker.launcher import trainer_command, trainer_environment
from worker.reports import checkpoint_metrics
from worker.shutdown import ShutdownFlag
from worker.supervisor import judge


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


def test_a_complete_model_is_a_success(run_dir):
    run_dir.model.mkdir()
    (run_dir.model / "manifest.json").write_text(json.dumps({}))
    assert judge(EXIT_DONE, run_dir, None).kind == "succeeded"
    assert judge(EXIT_DONE, run_dir, "shutdown").kind == "succeeded"
    assert judge(EXIT_DONE, run_dir, "deadline").kind == "succeeded"
    assert judge(EXIT_DONE, run_dir, "cancelled").kind == "cancelled"


def test_a_good_exit_without_a_model_is_none(run_dir):
    outcome = judge(EXIT_DONE, run_dir, None)
    assert (outcome.kind, outcome.error["code"]) == ("given_up", "trainer_crashed")


def test_a_trainer_that_said_why_it_failed_is_believed(run_dir):
    run_dir.write_error(TrainerError(code="out_of_memory", message="Use a smaller batch.", param="global_batch_size"))
    outcome = judge(EXIT_FAILED, run_dir, None)
    assert outcome.kind == "failed"
    assert outcome.error == {"code": "out_of_memory", "message": "Use a smaller batch.", "param": "global_batch_size"}


def test_a_full_disk_is_tried_again_elsewhere(run_dir):
    run_dir.write_error(TrainerError(code="disk_full", message="The disk is full."))
    assert judge(EXIT_FAILED, run_dir, None).kind == "given_up"


def test_a_killed_trainer_is_given_up_with_the_signal_and_a_next_step(run_dir):
    outcome = judge(-signal.SIGKILL, run_dir, None)
    assert (outcome.kind, outcome.error["code"]) == ("given_up", "trainer_killed")
    assert "signal 9" in outcome.error["message"]
    assert "smaller global_batch_size" in outcome.error["message"]


def test_a_crash_is_shown_by_the_last_words_of_the_log(run_dir):
    run_dir.log_file.write_text("".join(f"line {number}\n" for number in range(50)) + "ImportError: no torch\n")
    outcome = judge(EXIT_FAILED, run_dir, None)
    assert "ImportError: no torch" in outcome.error["message"]
    assert "line 1 " not in outcome.error["message"]


@pytest.mark.parametrize(
    ("exit_code", "reason", "kind"),
    [
        (EXIT_STOPPED, None, "released"),
        (EXIT_STOPPED, "shutdown", "released"),
        (-signal.SIGKILL, "shutdown", "released"),  # it took longer than stop_seconds
        (-signal.SIGTERM, "shutdown", "released"),  # it was still importing
        (EXIT_STOPPED, "cancelled", "cancelled"),
        (-signal.SIGKILL, "cancelled", "cancelled"),
        (EXIT_DONE, "lost", "lost"),
    ],
)
def test_a_stopped_trainer_ends_as_it_was_wished(run_dir, exit_code, reason, kind):
    assert judge(exit_code, run_dir, reason).kind == kind


def test_a_trainer_is_told_no_secret_and_no_hub():
    worker = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "ALIGNCLIP_DATABASE_URL": "postgresql://user:password@host/db",
        "ALIGNCLIP_BROKER_URL": "redis://:password@host",
        "ALIGNCLIP_BOOTSTRAP_API_KEY": "acl-secret",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "HF_TOKEN": "hf-secret",
        "PGPASSWORD": "password",
    }
    told = trainer_environment(worker, Settings(threads=3))
    assert told["PATH"] == "/bin"
    assert told["CUDA_VISIBLE_DEVICES"] == "1"
    assert told["OMP_NUM_THREADS"] == "3"
    assert told["HF_HUB_OFFLINE"] == told["TRANSFORMERS_OFFLINE"] == "1"
    assert told["ALIGNCLIP_PARENT_PID"] == str(os.getpid())
    assert not any("secret" in value or "password" in value for value in told.values())


def test_threads_are_left_to_the_trainer_unless_they_are_set(run_dir):
    assert "--threads" not in trainer_command(run_dir, Settings())
    assert trainer_command(run_dir, Settings(threads=3))[-2:] == ["--threads", "3"]
    assert "OMP_NUM_THREADS" not in trainer_environment({}, Settings())


def test_several_gpus_are_trained_on_by_as_many_processes(run_dir):
    assert "--processes" not in trainer_command(run_dir, Settings())
    settings = Settings(gpus="2,GPU-5f3a")
    assert trainer_command(run_dir, settings)[-2:] == ["--processes", "2"]
    assert trainer_environment({"CUDA_VISIBLE_DEVICES": "1"}, settings)["CUDA_VISIBLE_DEVICES"] == "2,GPU-5f3a"
    for wrong in ("", "0,", "0, 1"):
        with pytest.raises(ValidationError, match="gpus"):
            Settings(gpus=wrong)


def test_a_checkpoint_carries_the_numbers_of_the_weights_that_would_serve():
    evaluation = {"raw": {"accuracy": 0.5, "loss": 1.0}, "bma": {"accuracy": 0.75, "loss": 0.5}}
    metrics = checkpoint_metrics({"train": {"loss": 2.0, "accuracy": 0.25}, "evaluation": evaluation}, 0.75)
    assert metrics == {
        "train_loss": 2.0,
        "train_mean_token_accuracy": 0.25,
        "valid_loss": 0.5,
        "valid_mean_token_accuracy": 0.75,
        "valid_accuracy": 0.75,
    }
    assert checkpoint_metrics({"evaluation": {"zero_shot": {"accuracy": 0.5}}}, None) == {}


def test_a_shutdown_reaches_processes_that_were_forked_before_it():
    flag = ShutdownFlag()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os._exit(0 if flag.is_set() else 1)
    assert not flag.is_set()
    flag.set()
    os.write(tell, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
