"""The Dockerfiles pass hadolint, and hadolint would say so if they did not."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.fixture(scope="module")
def hadolint():
    def lint(path):
        return subprocess.run(
            [str(Path(sys.executable).with_name("hadolint")), str(path)], capture_output=True, text=True, check=False
        )

    return lint


def test_there_is_a_dockerfile():
    assert DOCKERFILES


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_passes_the_linter(hadolint, path):
    linted = hadolint(path)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_linter_refuses_an_untagged_base_image(hadolint, tmp_path):
    path = tmp_path / "Dockerfile"
    path.write_text("FROM debian\nRUN cd /tmp\n")
    linted = hadolint(path)
    assert linted.returncode == 1
    assert "DL3006" in linted.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_image_runs_as_a_plain_user_from_the_lock(path):
    text = path.read_text()
    users = [line.split()[1] for line in text.splitlines() if line.startswith("USER ")]
    assert users
    assert not {"root", "0", "0:0"} & set(users)
    assert "-c requirements.lock" in text
    assert "-r requirements-torch.txt" in text


def test_api_image_says_whether_it_is_healthy():
    (text,) = (path.read_text() for path in DOCKERFILES)
    _, _, api = text.partition(" AS api\n")
    api, _, worker = api.partition("\nFROM ")
    assert "HEALTHCHECK" in api
    assert "/healthz" in api
    assert "HEALTHCHECK" not in worker


def test_build_context_holds_every_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*packages, "migrations", "pyproject.toml", "requirements.lock", "requirements-torch.txt"} <= let_in
