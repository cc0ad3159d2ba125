"""The page's files over HTTP; tests/web opens them in a browser."""

import hashlib
import re
from pathlib import Path

import httpx2
import pytest

REPOSITORY = Path(__file__).parents[2]
WEB = REPOSITORY / "api" / "web"


@pytest.fixture(scope="module")
def anyone(service):
    """A client without a key."""
    with httpx2.Client(base_url=service.url) as client:
        yield client


@pytest.mark.parametrize("address", ["/", "/docs"])
def test_the_page_and_all_that_it_names_are_there_for_anyone(anyone, address):
    page = anyone.get(address)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    named = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(named) > 3
    for path in named:
        assert anyone.get(path).status_code == 200, path


@pytest.mark.parametrize("path", ["/", "/web/app.js"])
def test_what_has_not_changed_is_not_sent_again(anyone, path):
    first = anyone.get(path)
    again = anyone.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = anyone.head(path)
    assert (head.status_code, head.headers["etag"]) == (200, first.headers["etag"])
    assert head.headers["content-security-policy"] == again.headers["content-security-policy"]


def test_modules_import_only_files_that_are_there():
    for module in WEB.rglob("*.js"):
        for name in re.findall(r'^(?:import|export)\b[^;]*?from\s*"([^"]+)"', module.read_text(), re.MULTILINE):
            assert name.startswith("."), f"{module}: {name} would be looked for elsewhere"
            assert (module.parent / name).is_file(), f"{module}: {name}"


@pytest.mark.parametrize("path", ["/", "/docs", "/web/app.js", "/web/vendor/inter.woff2"])
def test_nothing_inline_and_nothing_from_elsewhere_is_allowed(anyone, path):
    headers = anyone.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"


def test_the_page_holds_no_inline_script_or_style():
    text = (WEB / "index.html").read_text()
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*\bsrc=)", text)


def test_user_text_is_never_set_as_html():
    for module in WEB.rglob("*.js"):
        if module.parent.name != "vendor":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", module.read_text())


@pytest.mark.parametrize("path", ["/web/../main.py", "/web/%2e%2e/main.py", "/web/nothing.js", "/nothing"])
def test_other_files_are_not_served(anyone, path):
    answer = anyone.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_vendored_parts_are_those_that_the_notice_names():
    vendor = WEB / "vendor"
    named = dict(reversed(line.split()) for line in (vendor / "NOTICE").read_text().split("sha256\n")[1].splitlines())
    found = {path.name for path in vendor.iterdir() if path.suffix in (".js", ".css", ".woff2")}
    assert found == set(named)
    assert {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in found} == named


def test_symbols_are_those_of_the_options_page():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (REPOSITORY / "docs" / "options.md").read_text(), re.MULTILINE)
    symbols = dict(re.findall(r'^  (\w+): "(.+)",$', (WEB / "lib" / "symbols.js").read_text(), re.MULTILINE))
    assert symbols
    assert symbols.items() <= dict(rows).items()
