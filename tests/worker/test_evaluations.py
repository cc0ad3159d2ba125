"""An evaluation from its POST to its table: the API, real workers, a cell that fails with one and is tried again."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from tests.worker.conftest import WAIT_SECONDS, png

KEY = "acl-test-key"
BUDGET = {"num_steps": 2, "global_batch_size": 6, "checkpoint_every_steps": 1, "evaluate_every_steps": 2}


@pytest.fixture
def service(make_service):
    """A service whose jobs fail with the first worker that they lose."""
    return make_service(bootstrap_api_key=KEY, serving_runtime="torch", max_runs_per_job=1)


@pytest.fixture
def http(service):
    """The API on the service's home."""
    with TestClient(create_app(service.settings), headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def wait_for(http, service, url, until):
    """The answer once it is as wished; the logs of all processes when it never is."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not until(answer := http.get(url).json()):
        if time.monotonic() > deadline:
            pytest.fail(f"{answer}\n{service.logs()}")
        time.sleep(0.2)
    return answer


def test_cells_fill_the_table_and_one_that_failed_is_told_and_takes_its_place_when_it_is_tried_again(
    http, service, pictures, pack, is_gone
):
    images = {f"{domain}/{name}": content for domain in ("photo", "sketch") for name, content in pictures.items()}
    file = http.post("/v1/files", files={"file": ("a.zip", pack(images))}, data={"purpose": "fine-tune"}).json()
    body = {"protocol": "domain_shift", "dataset": file["id"], "model": "tiny", "targets": ["sketch"]}
    methods = ["finetune", "label_smoothing"]
    created = http.post("/v1/evaluations", json=body | {"methods": methods, "hyperparameters": BUDGET})
    assert created.status_code == 200, created.text
    evaluation = created.json()
    url = f"/v1/evaluations/{evaluation['id']}"
    assert (evaluation["status"], evaluation["num_jobs"], evaluation["tables"]) == ("queued", 2, [])

    service.arm("mid_step", "4")  # the second step of the second job, whichever that is
    first = service.start_worker("first")
    trainer = service.wait_held("mid_step")
    half = wait_for(http, service, url, lambda answer: answer["num_finished"] == 1)
    assert half["status"] == "running"
    (done,) = [cell for cell in half["cells"] if cell["status"] == "succeeded"]
    (held,) = [cell for cell in half["cells"] if cell["status"] == "running"]
    assert (done["num_images"], held["accuracy"], held["error"]) == (12, None, None)
    assert [row[0] for row in half["tables"][0]["rows"]] == [done["method"]]
    job_url = f"/v1/fine_tuning/jobs/{held['job_id']}"
    wait_for(http, service, f"{job_url}/checkpoints", lambda answer: answer["data"])

    first.kill()
    assert is_gone(first)
    assert is_gone(trainer)
    service.let_lease_lapse(held["job_id"])
    service.start_reaper()
    failed = wait_for(http, service, url, lambda answer: answer["num_finished"] == 2)
    assert failed["status"] == "failed"
    (cell,) = [cell for cell in failed["cells"] if cell["job_id"] == held["job_id"]]
    assert (cell["status"], cell["accuracy"]) == ("failed", None)
    assert cell["error"] == http.get(job_url).json()["error"]["message"]
    assert [row[0] for row in failed["tables"][0]["rows"]] == [done["method"]]

    again = http.post(f"{url}/retry").json()
    assert (again["status"], again["num_finished"]) == ("running", 1)
    service.start_worker("second")
    whole = wait_for(http, service, url, lambda answer: answer["num_finished"] == 2)
    assert whole["status"] == "succeeded", service.logs()
    assert sorted(row[0] for row in whole["tables"][0]["rows"]) == methods
    assert all(cell["accuracy"] is not None and cell["error"] is None for cell in whole["cells"])
    assert whole["cells"][0]["zero_shot"] == whole["cells"][1]["zero_shot"]
    events = http.get(f"{job_url}/events", params={"limit": 100}).json()["data"]
    assert "Going on from step 1 of 2." in [event["message"] for event in events]


def drawn(seed, **colours):
    """class/number.png -> content: eight noisy pictures of each class, which is a share of red, green and blue."""
    noise = np.random.default_rng(seed)
    return {
        f"{name}/{number}.png": png((noise.random((16, 16, 3)) * 120 + 120 * np.array(shares)).astype(np.uint8))
        for name, shares in colours.items()
        for number in range(8)
    }


RED, GREEN, BLUE, YELLOW = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)


def test_dataset_shift_over_http_has_the_rows_of_the_command(make_service, pack, tmp_path):
    archives = {
        "paint": pack(drawn(1, blue=BLUE, green=GREEN, red=RED)),
        "ink": pack(drawn(2, blue=(0.2, 0, 0.6), red=(0.6, 0, 0.2))),
        "chalk": pack(drawn(3, green=(0.1, 0.5, 0), yellow=YELLOW, red=(0.7, 0.1, 0.1))),
    }
    service = make_service(bootstrap_api_key=KEY, serving_runtime="torch", threads=1)
    service.start_worker()
    budget = {"num_steps": 8, "global_batch_size": 6, "learning_rate": 1e-3}
    with TestClient(create_app(service.settings), headers={"Authorization": f"Bearer {KEY}"}) as http:
        files = {
            name: http.post(
                "/v1/files", files={"file": (f"{name}.zip", content)}, data={"purpose": "fine-tune"}
            ).json()["id"]
            for name, content in archives.items()
        }
        body = {"protocol": "dataset_shift", "dataset": files["paint"], "model": "tiny", "methods": ["alignclip"]}
        words = {"red": "dark red", "yellow": "lemon", "green": "green"}
        tests = [files["ink"], {"dataset": files["chalk"], "name": "chalk", "class_names": words}]
        given = {"test_datasets": tests, "seeds": [3], "hyperparameters": budget}
        created = http.post("/v1/evaluations", json=body | given)
        assert created.status_code == 200, created.text
        url = f"/v1/evaluations/{created.json()['id']}"
        whole = wait_for(http, service, url, lambda answer: answer["num_finished"] == 1)
    assert whole["status"] == "succeeded", service.logs()

    for name, content in archives.items():
        (tmp_path / f"{name}.zip").write_bytes(content)
    (tmp_path / "chalk.classes.json").write_text(json.dumps(words))
    command = [str(Path(sys.executable).with_name("alignclip")), "evaluate", "paint.zip", "ink.zip", "chalk.zip"]
    command += ["--protocol", "dataset_shift", "--model", "tiny", "--seed", "3", "--threads", "1", "--output", "grid"]
    command += ["--method", "alignclip"]
    command += [word for name, value in budget.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(command, cwd=tmp_path, env=service.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "grid/results.jsonl").read_text().splitlines()]

    told = ("method", "target", "seed", "accuracy", "split", "split_sha256")
    by_command = sorted([*(row[name] for name in told), row["n"]] for row in rows)
    by_service = sorted([*(cell[name] for name in told), cell["num_images"]] for cell in whole["cells"])
    assert by_service == by_command
    assert len(by_service) == 3
    assert {(cell["target"], cell["num_images"]) for cell in whole["cells"]} == {
        ("source", 6),
        ("ink", 16),
        ("chalk", 24),
    }
    assert any(0 < cell["accuracy"] != cell["zero_shot"] for cell in whole["cells"])
