"""A process that is shut in reaches what it needs, and nothing that a hostile image could make it want."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from alignclip_core.confinement import Confinement, landlock_version

ROOT = Path(__file__).parents[2]
PROBE = """
import json, os, signal, socket, sys
from multiprocessing.shared_memory import SharedMemory
home, own, elsewhere, victim, port = sys.argv[1:]
attempts = {
    "read the key": lambda: open(f"{home}/api_key").read(),
    "see other runs": lambda: os.listdir(f"{home}/runs"),
    "read the service's environment": lambda: open(f"/proc/{victim}/environ").read(),
    "kill the service": lambda: os.kill(int(victim), signal.SIGKILL),
    "write elsewhere": lambda: open(f"{elsewhere}/new", "w"),
    "make a link": lambda: os.symlink("/etc/passwd", f"{own}/link"),
    "give a file a second name": lambda: os.link("/etc/passwd", f"{own}/name"),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(port))),
    "read a model": lambda: open(f"{home}/models/weights").read(),
    "read the system": lambda: open("/etc/passwd").read(),
    "write its own": lambda: open(f"{own}/aside", "w"),
    "rename its own": lambda: os.rename(f"{own}/aside", f"{own}/made"),
    "write temporary files": lambda: open(f"{os.environ['TMPDIR']}/new", "w"),
    "share memory": lambda: SharedMemory(create=True, size=8).unlink(),
}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
        done.append(name)
    except OSError:
        pass
print(json.dumps(done))
"""
NEEDED = ["read a model", "read the system", "write its own", "rename its own", "write temporary files", "share memory"]


@pytest.fixture
def places(tmp_path):
    """A home with a key, a model and a run; a temporary folder and another one beside it."""
    for name in ("home/models", "home/runs/own", "temporary", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home/api_key").write_text("acl-secret")
    (tmp_path / "home/models/weights").write_text("1")
    return tmp_path


@pytest.fixture
def service(places):
    """A process whose environment has a secret, and a port that listens."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], "SECRET": "s"}) as victim,
    ):
        while Path(f"/proc/{victim.pid}/cmdline").read_bytes()[:5] != b"sleep":
            time.sleep(0.01)
        yield victim, listening.getsockname()[1]
        assert victim.poll() is None
        victim.kill()


@pytest.fixture
def confinement(places):
    return Confinement(
        hidden=places / "home",
        readable=(places / "home/models", Path(sys.prefix), Path(sys.base_prefix), ROOT),
        own=places / "home/runs/own",
        writable=(places / "temporary", Path("/dev")),
    )


def attempt_all(confinement, places, service):
    """Names of what a confined process could do."""
    victim, port = service
    own, elsewhere = places / "home/runs/own", places / "elsewhere"
    command = [sys.executable, "-c", PROBE, *map(str, (places / "home", own, elsewhere, victim.pid, port))]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(places / "temporary")}
    done = subprocess.run(confinement.wrap(command), env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


def test_what_a_trainer_needs_is_allowed_and_nothing_else(confinement, places, service):
    reached, warning = attempt_all(confinement, places, service)
    version = landlock_version()
    if not version:
        assert "not shut in" in warning
        assert set(NEEDED) < set(reached)
        return
    later = {"connect": 4, "kill the service": 6}  # versions of the kernel that can forbid it
    assert set(reached) == {name for name, needed in later.items() if version < needed} | set(NEEDED)


def test_a_network_that_is_needed_is_left(confinement, places, service):
    reached, _ = attempt_all(replace(confinement, has_network=True), places, service)
    assert "connect" in reached


def test_a_driver_makes_its_files_before(confinement, places):
    """The program is the driver's; here another one has its name."""
    program = places / "elsewhere" / "nvidia-modprobe"
    program.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(confinement.wrap([sys.executable, "-c", ""]), env=environment, check=True)
    assert (places / "elsewhere" / "asked").read_text() == "-u -c=0\n"


def test_rights_cannot_be_taken_back(confinement, places):
    """Not by a program that the kernel would give more to, nor by another confinement."""
    wider = replace(confinement, hidden=places / "elsewhere")
    command = confinement.wrap(wider.wrap([sys.executable, "-c", "open(r'{}')".format(places / "home/api_key")]))
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (landlock_version() == 0)
