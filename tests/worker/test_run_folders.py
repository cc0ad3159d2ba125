"""Run directories that nobody needs any more are swept; those of living workers are not."""

import subprocess
import sys

import pytest

from worker.run_folders import held_folder, sweep_run_dirs

HOLD = """
import sys, time
from pathlib import Path
from worker.run_folders import held_folder
with held_folder(Path(sys.argv[1])):
    (Path(sys.argv[1]) / "inputs").mkdir()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a run directory."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "runs/ftjob-1/run-1")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_folder_of_a_living_worker_stays(holder, tmp_path):
    assert sweep_run_dirs(tmp_path / "runs") == 0
    assert (tmp_path / "runs/ftjob-1/run-1/inputs").is_dir()


def test_the_folder_of_a_killed_worker_is_swept(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert sweep_run_dirs(tmp_path / "runs") == 1
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_is_gone_after_its_run_whatever_ended_it(tmp_path):
    def fail():
        with held_folder(tmp_path / "runs/ftjob-1/run-2"):
            (tmp_path / "runs/ftjob-1/run-2/trainer.log").write_text("words")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_folder_that_another_process_holds_is_not_taken(holder, tmp_path):
    with pytest.raises(OSError, match="held by another process"), held_folder(tmp_path / "runs/ftjob-1/run-1"):
        pass
    assert (tmp_path / "runs/ftjob-1/run-1/inputs").is_dir()


def test_sweeping_where_no_job_ever_ran_is_fine(tmp_path):
    assert sweep_run_dirs(tmp_path / "runs") == 0
