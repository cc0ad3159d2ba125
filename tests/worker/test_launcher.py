"""What a trainer is told of the worker's environment, and that nothing of it outlives its end."""

import sys
import tempfile
import time

import psutil
import pytest

from alignclip_core.confinement import landlock_version
from alignclip_core.run_dir import RunDir
from worker.launcher import Trainer, trainer_environment

PROGRAM = """
import os, subprocess, time
subprocess.Popen(["sleep", "600"])
while not os.path.exists("end"):
    time.sleep(0.02)
"""


def test_the_trainer_sees_no_secret_of_the_service(make_settings):
    secrets = {
        "ALIGNCLIP_BOOTSTRAP_API_KEY": "s", "ALIGNCLIP_KEY_PEPPER": "s", "ALIGNCLIP_DATABASE_URL": "s",
        "ALIGNCLIP_BROKER_URL": "s", "AWS_SECRET_ACCESS_KEY": "s", "POSTGRES_PASSWORD": "s", "HF_TOKEN": "s",
    }  # fmt: skip
    passed = trainer_environment({"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1"} | secrets, make_settings())
    assert not passed.keys() & secrets.keys()
    assert (passed["PATH"], passed["CUDA_VISIBLE_DEVICES"]) == ("/bin", "1")
    assert passed["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("ends_by_itself", [False, True])
def test_the_end_of_a_trainer_is_the_end_of_what_it_started(make_settings, tmp_path, is_gone, ends_by_itself):
    trainer = Trainer(RunDir(tmp_path), make_settings(), [sys.executable, "-c", PROGRAM])
    while not (children := psutil.Process(trainer.pid).children()):
        time.sleep(0.02)
    if ends_by_itself:
        (tmp_path / "end").touch()
    else:
        trainer.kill()
    while trainer.exit_code() is None:
        time.sleep(0.02)
    assert is_gone(children[0])


@pytest.mark.parametrize("confine_trainers", [True, False])
def test_a_trainer_sees_nothing_of_the_home_but_its_run(make_settings, tmp_path, monkeypatch, confine_trainers):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))  # the tests' own holds this home
    settings = make_settings(confine_trainers=confine_trainers)
    settings.api_key_file.parent.mkdir()
    settings.api_key_file.write_text("acl-secret")
    run_dir = RunDir(settings.runs_location / "ftjob-1" / "run-1")
    run_dir.inputs.mkdir(parents=True)
    program = f"open('made', 'w').write(open('{settings.api_key_file}').read())"
    trainer = Trainer(run_dir, settings, [sys.executable, "-c", program])
    while (exit_code := trainer.exit_code()) is None:
        time.sleep(0.02)
    is_shut_in = confine_trainers and landlock_version() > 0
    assert (exit_code != 0) == is_shut_in, run_dir.log_file.read_text()
    assert (run_dir.path / "made").read_text() == ("" if is_shut_in else "acl-secret")
