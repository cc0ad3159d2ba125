"""Webhooks over HTTP."""

import pytest

PUBLIC = "https://8.8.8.8/hook"  # an address, so that the test needs no name server; nothing is sent


def test_a_webhook_tells_its_secret_once(http):
    created = http.post("/v1/webhooks", json={"url": PUBLIC}).json()
    assert created["secret"].startswith("whsec_")
    assert created["events"] == [f"fine_tuning.job.{end}" for end in ("cancelled", "failed", "succeeded")]
    url = f"/v1/webhooks/{created['id']}"
    listed = {webhook["id"]: webhook for webhook in http.get("/v1/webhooks").json()["data"]}
    assert listed[created["id"]] == created | {"secret": None}
    rotated = http.post(f"{url}/rotate").json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != created["secret"]
    assert http.get(f"{url}/deliveries").json()["data"] == []
    assert http.delete(url).json() == {"id": created["id"], "object": "webhook", "deleted": True}
    for answer in (http.delete(url), http.post(f"{url}/rotate"), http.get(f"{url}/deliveries")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "webhook_not_found")


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/", "https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/"]
)
def test_a_url_that_leads_inside_is_refused(http, url):
    answer = http.post("/v1/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "url_refused")
    assert answer.json()["error"]["param"] == "url"


def test_a_job_that_ends_is_among_the_deliveries(http, openai, create_job):
    body = {"url": PUBLIC, "events": ["fine_tuning.job.cancelled"]}
    webhook = http.post("/v1/webhooks", json=body).json()
    job = create_job()
    openai.fine_tuning.jobs.cancel(job.id)
    (delivery,) = http.get(f"/v1/webhooks/{webhook['id']}/deliveries").json()["data"]
    assert (delivery["type"], delivery["job_id"]) == ("fine_tuning.job.cancelled", job.id)
    assert (delivery["num_tries"], delivery["delivered_at"]) == (0, None)
    http.delete(f"/v1/webhooks/{webhook['id']}")
