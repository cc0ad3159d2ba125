"""The demo as `make demo` starts it, stopped in the middle."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import psutil
import pytest


def processes_of(home):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ALIGNCLIP_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture
def demo(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "pictures")
    other_deployment = {"ALIGNCLIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.demo", str(tmp_path)],
        env=os.environ | other_deployment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()
    process.stderr.close()


def test_stopped_demo_cancels_its_job_and_leaves_no_process(demo, tmp_path):
    said = []
    for line in demo.stderr:
        said.append(line)
        if line.startswith("Files validated"):
            break
    assert processes_of(tmp_path), "".join(said)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 130, demo.stderr.read()
    assert processes_of(tmp_path) == []
    with sqlite3.connect(tmp_path / "alignclip.db") as database:
        rows = database.execute("SELECT status, cancel_requested_at IS NOT NULL FROM jobs").fetchall()
    database.close()
    assert rows in ([("cancelled", 1)], [("queued", 1)])  # queued: the next worker that looks at it cancels it
