"""Nothing jumps: what the browser itself counts as layout shifts, on every page, while answers and news come in."""

import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.web.conftest import PAINTED, take_shifts
from tests.web.places import ENDLESS, PAGES, place_of

PHONE, DESK = (390, 844), (1200, 900)
NEAR_THE_END = "document.documentElement.scrollHeight - innerHeight - 40"
STEP = re.compile(r"Step (\d+) of")
MENU = {
    "Jobs": "Jobs",
    "New job": "New job",
    "Compare": "Compare jobs",
    "Evaluations": "Evaluations",
    "Models": "Models",
    "Try": "Try a model",
}

pytestmark = [pytest.mark.page, pytest.mark.timeout(3600)]


def open_slowly(page: Page, place: str) -> None:
    """Load the page, the first of its tab; each answer comes when what the ones before it changed was painted."""
    held: list[Route] = []
    page.route("**/v1/**", lambda route: held.append(route))
    page.goto(f"/#/{place}")
    expect(page.locator("h1")).to_be_visible()
    while held or page.locator("[aria-busy=true]").count():
        page.evaluate(PAINTED)
        if held:
            release(page, held.pop(0))
    page.unroute("**/v1/**")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    page.evaluate(PAINTED)


def release(page: Page, route: Route) -> None:
    with page.expect_response(lambda response: response.request == route.request):
        route.continue_()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_nothing_moves_while_a_page_loads(size, job, other_job, evaluation, classification, new_page):
    scores = {}
    for name in PAGES:
        with new_page(width=size[0], height=size[1]) as page:
            open_slowly(page, place_of(name, job, evaluation, classification))
            scores[name] = take_shifts(page)
    print(size, {name: round(score, 4) for name, score in scores.items()})


@pytest.fixture(scope="module")
def running_job(service, job, evaluation, classification):
    """One that goes on until these tests have ended."""
    body = {name: job[name] for name in ("training_file", "model", "test_domains", "unseen_classes")}
    made = service.http.post("/v1/fine_tuning/jobs", json=body | {"suffix": "endless"} | ENDLESS).json()
    yield made
    service.http.post(f"/v1/fine_tuning/jobs/{made['id']}/cancel")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("tab", ["curves", "history", "list"])
def test_nothing_moves_while_news_come_in(size, tab, running_job, new_page):
    """From the queue on, where it has not begun yet, through evaluations and checkpoints."""
    with new_page(width=size[0], height=size[1]) as page:
        page.goto("/" if tab == "list" else f"/#/jobs/{running_job['id']}/{tab}")
        wait_for_steps(page, 15)
        print(size, tab, round(take_shifts(page), 4))


def wait_for_steps(page: Page, num_steps: int) -> None:
    """Until so many more steps than now are told, one after the other."""
    told = page.get_by_text(STEP).first
    expect(told).to_be_visible()
    begun = int(STEP.search(told.text_content()).group(1))
    page.wait_for_function(
        """(wanted) =>
          [...document.body.innerText.matchAll(/Step (\\d+) of/g)].some(([, step]) => Number(step) >= wanted)""",
        arg=begun + num_steps,
    )


def test_focus_and_place_survive_news(running_job, new_page):
    with new_page(height=600) as page:
        page.goto(f"/#/jobs/{running_job['id']}")
        wait_for_steps(page, 1)
        line = page.get_by_role("button", name="SLS")
        line.focus()
        page.evaluate(f"scrollTo(0, {NEAR_THE_END})")
        place = page.evaluate("scrollY")
        assert place > 0
        wait_for_steps(page, 15)
        expect(line).to_be_focused()
        assert page.evaluate("scrollY") == place
        page.get_by_role("link", name="History").click()
        events = page.get_by_role("region", name="Events")
        expect(events.get_by_role("listitem").nth(4)).to_be_visible()
        log = page.get_by_label("Trainer's log")
        log.focus()
        events.evaluate("(element) => { element.style.height = '60px'; element.scrollTop = 5; }")
        wait_for_steps(page, 25)  # past an evaluation and a checkpoint, each an event
        expect(log).to_be_focused()
        assert events.evaluate("(element) => element.scrollTop") == 5
        page.get_by_role("link", name="AlignCLIP").click()
        link = page.get_by_role("link", name="endless")
        link.focus()
        wait_for_steps(page, 5)
        expect(link).to_be_focused()


def test_two_tabs_tell_the_same_and_a_button_keeps_the_focus(running_job, new_page):
    with new_page() as page, new_page(width=PHONE[0], height=PHONE[1]) as other:
        for each in (page, other):
            each.goto(f"/#/jobs/{running_job['id']}")
        wait_for_steps(page, 1)
        page.get_by_role("button", name="Pause").press("Enter")
        for each in (page, other):
            expect(each.get_by_text("Paused", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Resume")).to_be_focused()
        other.get_by_role("button", name="Cancel").click()
        for each in (page, other):
            expect(each.get_by_text("Cancelled", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Retry")).to_be_focused()


def test_the_menu_of_a_phone_leads_to_every_page_and_none_is_too_wide(job, new_page):
    with new_page(width=PHONE[0], height=PHONE[1]) as page:
        page.goto("/#/classifications")
        for word, heading in MENU.items():
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=word, exact=True).click()
            expect(page.get_by_role("heading", name=heading, level=1)).to_be_focused()
            expect(page.locator("[aria-busy=true]")).to_have_count(0)
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0], word
            for link in page.get_by_role("navigation", name="Pages").get_by_role("link").all():
                box = link.bounding_box()
                assert box["x"] >= 0, word
                assert box["x"] + box["width"] <= PHONE[0], word


def test_mistakes_are_told_without_pictures_where_the_dataset_is_gone(job, running_job, service, new_page):
    """The last of all: it deletes the upload that the others need."""
    assert service.http.delete(f"/v1/files/{job['training_file']}").status_code == 200
    with new_page(expected="404") as page:
        open_slowly(page, f"jobs/{job['id']}/mistakes")
        expect(page.get_by_text("are not at hand")).to_be_visible()
        expect(page.get_by_role("img", name=re.compile("The picture: "))).to_have_count(0)
        expect(page.locator(".shares").first).to_be_visible()
