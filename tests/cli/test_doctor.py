"""`alignclip doctor` says what there is, what is missing and what to do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from alignclip_core.confinement import landlock_version

ALIGNCLIP = str(Path(sys.executable).with_name("alignclip"))
NAMES = (
    "Python", "PyTorch", "starter model", "base models", "database", "broker", "artifacts", "disk", "API key",
    "isolation", "port",
)  # fmt: skip


@pytest.fixture
def doctor(tmp_path):
    """A function that runs doctor on a home that nothing was started in; it gives the lines and the exit code."""

    def run(*arguments, **more):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
        environment |= {"ALIGNCLIP_HOME": str(tmp_path / "home")} | more
        done = subprocess.run(
            [ALIGNCLIP, "doctor", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        return done.stdout, done.returncode

    return run


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def state_of(shown, name):
    (line,) = (line for line in shown.splitlines() if line[8:].startswith(f"{name} "))
    return line.split()[0]


def test_bare_machine_needs_nothing(doctor, free_port, tmp_path):
    shown, exit_code = doctor("--port", free_port)
    assert exit_code == 0, shown
    assert {state_of(shown, name) for name in NAMES} <= {"ok", "note"}
    assert not (tmp_path / "home" / "alignclip.db").exists()
    assert "alignclip models pull" in shown
    assert ("shut in by the kernel" in shown) == (landlock_version() > 0)
    assert "not enforced here" in shown
    shown, _ = doctor("--port", free_port, ALIGNCLIP_CONFINE_TRAINERS="false")
    assert "ALIGNCLIP_CONFINE_TRAINERS is off" in shown
    assert "a user of their own, no network" in shown


def test_each_missing_part_is_named_with_its_remedy(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "api_key").write_text("acl-key")
    (tmp_path / "home" / "api_key").chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        shown, exit_code = doctor(
            "--port",
            port,
            ALIGNCLIP_DATABASE_URL="postgresql://someone:hidden@127.0.0.1:1/nothing",
            ALIGNCLIP_BROKER_URL="redis://:hidden@127.0.0.1:1/0",
            ALIGNCLIP_ARTIFACTS_URL=str(tmp_path / "file" / "artifacts"),
        )
    assert exit_code == 1
    for name, remedy in {
        "database": "ALIGNCLIP_DATABASE_URL",
        "broker": "ALIGNCLIP_BROKER_URL",
        "artifacts": "ALIGNCLIP_ARTIFACTS_URL",
        "port": "--port",
    }.items():
        assert state_of(shown, name) == "missing"
        assert remedy in shown
    assert "hidden" not in shown
    assert state_of(shown, "API key") == "note"
    assert f"chmod 600 {tmp_path / 'home' / 'api_key'}" in shown


def test_running_service_is_seen(serve, alignclip):
    port = serve.url.rsplit(":", 1)[1]
    done = alignclip("doctor", "--port", port)
    assert done.returncode == 0, done.stdout
    assert "schema current" in done.stdout
    assert "the private Valkey answers" in done.stdout
    assert f"this service answers at {serve.url}" in done.stdout
