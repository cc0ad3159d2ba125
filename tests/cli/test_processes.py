"""Children are restarted, ended in time, and never outlive the one that started them."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from cli.processes import Child, describe_exit, end_all, restart_dead

SLEEPER = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
PARENT = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"


@pytest.fixture
def make_child(tmp_path):
    children = []

    def make(code, name="child"):
        child = Child(name, [sys.executable, "-c", code], dict(os.environ), tmp_path / f"{name}.log")
        child.log_file.touch()
        children.append(child)
        return child

    yield make
    end_all(children, 0)


def test_children_end_when_asked(make_child):
    child = make_child(SLEEPER)
    child.start()
    assert end_all([child], 30) == []
    assert child.exit_code() == -signal.SIGTERM


def test_child_that_does_not_listen_is_killed(make_child, wait_until):
    child = make_child(STUBBORN)
    child.start()
    wait_until(lambda: "deaf" in child.last_lines())
    assert end_all([child], 0.5) == ["child"]
    assert child.exit_code() == -signal.SIGKILL


def test_second_signal_does_not_wait(make_child, wait_until):
    child = make_child(STUBBORN)
    child.start()
    wait_until(lambda: "deaf" in child.last_lines())
    assert end_all([child], 3600, is_urgent=lambda: True) == ["child"]


def test_what_a_dead_child_left_in_its_group_is_killed(make_child, wait_until):
    child = make_child(PARENT)
    child.start()
    grandchild = int(wait_until(child.last_lines))
    os.kill(child.pid, signal.SIGKILL)
    assert wait_until(child.exit_code) == -signal.SIGKILL
    wait_until(lambda: not is_alive(grandchild))


def test_dead_child_is_restarted_later_each_time_and_reported(make_child, wait_until, monkeypatch):
    monkeypatch.setattr("cli.processes.FIRST_RESTART_SECONDS", 0.05)
    child = make_child("raise SystemExit(3)")
    child.start()
    waits, reports = [], []
    for num_deaths in (1, 2, 3):
        wait_until(lambda: child.exit_code() == 3)
        restart_dead([child], reports.append)
        assert child.num_early_deaths == num_deaths
        waits.append(reports[-1].split("starts again in ")[1].split(" s")[0])
        before = child.pid
        wait_until(lambda before=before: restart_dead([child], reports.append) or child.pid != before)
    assert waits == ["0.05", "0.1", "0.2"]
    assert "exit code 3" in reports[0]
    assert str(child.log_file) in reports[0]
    assert "started again" in reports[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_children_die_with_a_killed_parent(tmp_path, wait_until):
    code = f"""
        import os, pathlib, sys, time
        from cli.processes import Child
        command = [sys.executable, "-c", {STUBBORN!r}]
        logs = [pathlib.Path({str(tmp_path)!r}, name) for name in ("one", "two")]
        children = [Child(log.name, command, dict(os.environ), log) for log in logs]
        for child in children:
            child.start()
        print(*(child.pid for child in children), flush=True)
        time.sleep(600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        wait_until(lambda: all("deaf" in (tmp_path / name).read_text() for name in ("one", "two")))
        parent.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(is_alive(pid) for pid in pids))


def test_exit_is_described_in_words():
    assert describe_exit(2) == "exit code 2"
    assert describe_exit(-signal.SIGKILL) == "killed by SIGKILL"


def is_alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
