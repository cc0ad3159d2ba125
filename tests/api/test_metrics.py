"""What Prometheus reads."""

from collections.abc import Callable

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from alignclip_store import runs


@pytest.fixture(scope="module")
def lonely_service(start_service: Callable) -> object:
    """A service whose numbers are this module's alone."""
    return start_service()


def scrape(service) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names...) -> value."""
    answer = service.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_jobs_runs_leases_and_step_times_come_from_the_database(lonely_service, archive):
    service = lonely_service
    assert scrape(service)["alignclip_queue_depth",] == 0
    file_id = service.upload(archive, "a-name-of-a-user.zip")
    jobs = [service.openai.fine_tuning.jobs.create(model="tiny", training_file=file_id) for _ in range(3)]
    claim = service.claim(jobs[0].id)
    service.write(runs.start_training, claim)
    size = jobs[0].hyperparameters.batch_size
    values = {"images_per_second": size / 0.25}
    service.write(runs.record_metrics, claim, [{"step": 1, "kind": "train", "values": values}])
    found = scrape(service)
    assert found["alignclip_queue_depth",] == 2
    assert (found["alignclip_jobs", "queued"], found["alignclip_jobs", "running"]) == (2, 1)
    assert found["alignclip_runs", "open"] == 1
    assert found["alignclip_oldest_waiting_seconds",] > 0
    assert 0 < found["alignclip_shortest_lease_seconds",] <= 600
    assert found["alignclip_step_seconds", "tiny"] == pytest.approx(0.25)
    service.write(runs.finish, claim, "cancelled")
    found = scrape(service)
    assert found["alignclip_runs", "cancelled"] == 1
    assert ("alignclip_shortest_lease_seconds",) not in found


def test_requests_are_counted_by_template_and_hold_no_text_of_users(lonely_service, picture):
    service = lonely_service
    for number in range(3):
        service.http.get(f"/v1/fine_tuning/jobs/ftjob-{number}")
    service.http.get("/nowhere/a-secret-name")
    form = {"labels": ["a secret label", "dog"]}
    service.http.post("/v1/models/tiny/classify", files=[("image", picture)] * 3, data=form).raise_for_status()
    found = scrape(service)
    template = "/v1/fine_tuning/jobs/{job_id}"
    assert found["alignclip_http_requests_total", "GET", template, "404"] == 3
    assert found["alignclip_http_request_seconds_count", "GET", template] == 3
    assert found["alignclip_http_requests_total", "GET", "unmatched", "404"] == 1
    assert (found["alignclip_classify_images_sum",], found["alignclip_classify_images_count",]) == (3, 1)
    assert found["alignclip_classify_seconds_count",] == 1
    assert "secret" not in service.http.get("/metrics").text
    assert "a-name" not in service.http.get("/metrics").text


def test_a_key_is_needed_unless_the_operator_opened_it(lonely_service, start_service):
    assert httpx2.get(f"{lonely_service.url}/metrics").status_code == 401
    opened = start_service(metrics_access="open")
    assert httpx2.get(f"{opened.url}/metrics").status_code == 200
