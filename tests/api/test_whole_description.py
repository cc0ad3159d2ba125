"""The API does what its description says: schemathesis sends what fits it and what does not, and follows its links.

By hand, against any API, from the repository's root:
`schemathesis run URL/openapi.json --header "Authorization: Bearer KEY"`; schemathesis.toml says what is known of it.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.api.conftest import KEY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own(start_service):
    """An API whose limits let every request through to its route."""
    return start_service(
        max_failed_keys_per_minute=10**6,
        max_queued_jobs=None,
        max_body_bytes=2**20,
        allow_private_webhooks=True,
        allowed_base_models=["tiny"],
    )


@pytest.fixture(scope="module")
def known(own, archive):
    """Values that exist here, and the places where some requests shall have them: chance would never find them."""
    file_id = own.upload(archive)
    body = {"model": "tiny", "training_file": file_id, "num_steps": 2}
    done, waiting = (own.http.post("/v1/fine_tuning/jobs", json=body).json()["id"] for _ in range(2))
    return {
        "files": ([file_id], ["body.training_file", "body.dataset"]),
        "models": (["tiny", own.finish(done)], ["body.model", "path.model", "body.compare_with"]),
        "jobs": ([waiting, done], ["path.job_id"]),
        "urls": (["http://127.0.0.1:9/hook"], ["body.url"]),
    }


@pytest.fixture(scope="module")
def known_files(tmp_path_factory, archive, picture):
    """What tests/api/known_files.py puts into binary fields."""
    folder = tmp_path_factory.mktemp("known_files")
    (folder / "pets.zip").write_bytes(archive)
    (folder / "dog.png").write_bytes(picture)
    return folder


@pytest.fixture
def run(own, known, known_files, tmp_path):
    """Runs schemathesis with so many requests for each operation and so many walks; its report where it is red."""

    def run_phases(phases, *, num_requests, num_walks):
        config, description = tmp_path / "schemathesis.toml", tmp_path / "openapi.json"
        config.write_text(_config(known, num_walks))
        description.write_text(own.http.get("/openapi.json").text)  # schemathesis waits for it ten seconds at most
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", config, "run", description]
        command += ["--url", own.url, "--header", f"Authorization: Bearer {KEY}"]
        command += ["--phases", phases, "--max-examples", str(num_requests)]
        command += ["--checks", "all", "--exclude-checks", "unsupported_method", "--generation-deterministic"]
        command += ["--suppress-health-check", "all"]  # a busy machine is no fault of the API
        hooks = str(Path(__file__).with_name("known_files.py"))
        environment = os.environ | {"SCHEMATHESIS_HOOKS": hooks, "KNOWN_FILES": str(known_files)}
        done = subprocess.run([*command, "--no-color"], env=environment, cwd=tmp_path, capture_output=True, text=True)
        print(done.stdout, done.stderr)
        assert done.returncode == 0

    return run_phases


def test_routes_that_the_configuration_names_are_there(own):
    description = own.http.get("/openapi.json").json()
    there = {operation["operationId"] for methods in description["paths"].values() for operation in methods.values()}
    for exception in tomllib.loads((ROOT / "schemathesis.toml").read_text())["operations"]:
        names = exception["include-operation-id"]
        assert set([names] if isinstance(names, str) else names) <= there


@pytest.mark.timeout(1800)  # the machine may be busy
def test_answers_are_as_described(run):
    run("examples,fuzzing,stateful", num_requests=2, num_walks=30)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_answers_to_thousands_of_requests_are_as_described(run):
    run("examples,coverage,fuzzing,stateful", num_requests=25, num_walks=60)


def _config(known, num_walks):
    text = (ROOT / "schemathesis.toml").read_text()
    text += f"\n[phases.stateful.generation]\nmax-examples = {num_walks}\n"
    for name, (values, places) in known.items():
        text += f"\n[dictionaries.{name}]\nvalues = {values}\n"
        text += "".join(f"[parameters.'{place}']\ndictionary = '{name}'\nprobability = 0.7\n" for place in places)
    # each export is a process of its own that loads torch: one of each kind of request, and none in walks
    text += "\n[[operations]]\ninclude-operation-id = 'export_model'\n"
    text += "generation.max-examples = 1\nphases.stateful.enabled = false\n"
    return text
