"""/docs: the API's description, read by what comes with the page."""

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.page


def test_every_route_is_shown_without_asking_anybody_else(page):
    page.goto("/docs")
    create = page.locator(".opblock", has=page.locator('[data-path="/v1/fine_tuning/jobs"]')).first
    expect(create).to_be_visible()
    num_routes = page.locator(".opblock").count()
    described = page.request.get("/openapi.json").json()["paths"]
    assert num_routes == sum(len([name for name in path if name != "parameters"]) for path in described.values())
    create.locator("button.opblock-summary-control").click()
    expect(create.locator(".responses-wrapper")).to_be_visible()
