"""An evaluation from its POST to its table: the API, real workers, a cell that fails with one and is tried again."""

import time

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from tests.worker.conftest import WAIT_SECONDS

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
