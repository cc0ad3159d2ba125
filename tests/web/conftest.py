"""One real `alignclip serve`, a real Chromium, and pages that may not complain.

`make test-page` runs these tests; `make screenshots` also keeps the pictures that they take in docs/screenshots.
"""

import io
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.servers import served
from tools.chromium import ARGUMENTS, ChromiumMissing, find_chromium
from tools.demo.pictures import NEW_STYLE, TRAINED_STYLE, all_pictures, draw_pictures

CLASSES = ("bird", "boat", "building", "car", "cat", "clock", "flower", "fruit", "hand", "monkey", "train", "weapon")
PICTURES_PER_CLASS = {TRAINED_STYLE: 8, NEW_STYLE: 4}
MAX_SCREENSHOT_BYTES = 150_000
WIDTH, HEIGHT = 1200, 900
PATIENCE_MILLISECONDS = 300_000  # nothing here asserts a time; a busy machine is slow
SERIOUS = ("serious", "critical")
BUSY = "status of 429"  # one dataset is looked at at a time; the page asks again


@dataclass(frozen=True)
class Service:
    url: str
    api_key: str
    http: httpx2.Client


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = tmp_path_factory.mktemp("home")
    with (
        served(home, serving_runtime="torch") as running,  # others take long to be chosen on a busy machine
        httpx2.Client(
            base_url=running.url,
            headers={"authorization": f"Bearer {running.api_key}"},
            timeout=60,
            trust_env=False,
        ) as http,
    ):
        yield Service(running.url, running.api_key, http)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder domain/class/picture: some of the demo's."""
    chosen = []
    for domain, number in PICTURES_PER_CLASS.items():
        for name in CLASSES:
            chosen += [each for each in all_pictures() if (each.domain, each.class_name) == (domain, name)][:number]
    folder = tmp_path_factory.mktemp("data") / "pictures"
    draw_pictures(folder, chosen)
    return folder


@pytest.fixture(scope="session")
def archive(pictures: Path) -> bytes:
    """The pictures as a zip."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        for path in sorted(pictures.rglob("*.png")):
            opened.write(path, path.relative_to(pictures))
    return content.getvalue()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    try:
        path = find_chromium()
    except ChromiumMissing as error:
        pytest.fail(str(error), pytrace=False)
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def new_page(browser: Browser, service: Service) -> Callable[..., object]:
    """A function: a context with a page in it, which fails when it complains or asks anybody but the service."""

    @contextmanager
    def make(
        *,
        theme: str = "light",
        width: int = WIDTH,
        height: int = HEIGHT,
        has_key: bool = True,
        expected: str | None = None,
    ) -> Iterator[Page]:
        context = browser.new_context(
            base_url=service.url,
            viewport={"width": width, "height": height},
            color_scheme=theme,
            reduced_motion="reduce",
        )
        if has_key:
            context.add_init_script(f"sessionStorage.setItem('alignclip-key', '{service.api_key}')")
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MILLISECONDS)
        complaints: list[str] = []

        def note(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not any(
                text in message.text for text in (BUSY, expected) if text
            ):
                complaints.append(f"{message.type}: {message.text}")

        def note_request(request: Request) -> None:
            if not request.url.startswith((service.url, "data:", "blob:")):
                complaints.append(f"asked elsewhere: {request.url}")

        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        page.on("request", note_request)
        yield page
        context.close()
        assert not complaints

    return make


@pytest.fixture
def page(new_page: Callable[..., object]) -> Iterator[Page]:
    """A page with the key."""
    with new_page() as page:
        yield page


@pytest.fixture(scope="session")
def screenshot(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that keeps what a page looks like as a small PNG."""
    folder = Path(os.environ.get("PAGE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)

    def take(page: Page, name: str, *, full_page: bool = False) -> Path:
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(250)  # the last chart is drawn
        picture = Image.open(io.BytesIO(page.screenshot(full_page=full_page))).convert("RGB")
        path = folder / f"{name}.png"
        picture.save(path, optimize=True)
        if path.stat().st_size >= MAX_SCREENSHOT_BYTES:  # photographs and maps in it
            picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < MAX_SCREENSHOT_BYTES, path
        return path

    return take


@pytest.fixture(scope="session")
def check_accessibility() -> Callable[[Page], None]:
    """A function that fails when axe finds a serious fault on a page."""
    axe = Axe()

    def check(page: Page) -> None:
        found = axe.run(page).response["violations"]
        faults = [
            f"{fault['id']}: {fault['help']}; {[node['html'][:200] for node in fault['nodes'][:3]]}"
            for fault in found
            if fault["impact"] in SERIOUS
        ]
        assert not faults, "\n".join([page.url, *faults])

    return check
