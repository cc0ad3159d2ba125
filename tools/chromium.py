"""A Chromium for the page's tests: the system's, else one that is installed now."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
INSTALL_SECONDS = 600


class ChromiumMissing(Exception):
    pass


def find_chromium() -> str | None:
    """Its path; None stands for the one that Playwright keeps. Raises `ChromiumMissing`, saying what would do."""
    if path := _installed():
        return path
    if os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        _run("apt-get", "-qq", "update", env=environment)
        _run("apt-get", "-qq", "install", "-y", "--no-install-recommends", "chromium", env=environment)
        if path := _installed():
            return path
    if _run(sys.executable, "-m", "playwright", "install", "--with-deps", "chromium") or _run(
        sys.executable, "-m", "playwright", "install", "chromium"
    ):
        return None
    raise ChromiumMissing(
        "The page's tests need Chromium, and it could not be installed. Install it (Debian: apt-get install chromium) "
        "or set CHROMIUM to the path of a Chromium or Chrome."
    )


def _installed() -> str | None:
    if given := os.environ.get("CHROMIUM"):
        if not Path(given).is_file():
            raise ChromiumMissing(f"CHROMIUM is {given!r}, where there is no file; set it to a Chromium's path.")
        return given
    return next(filter(None, map(shutil.which, NAMES)), None)


def _run(*command: str, env: dict[str, str] | None = None) -> bool:
    try:
        return subprocess.run(command, env=env, timeout=INSTALL_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
