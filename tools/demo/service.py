"""The demo's own service: `alignclip serve` on a free port, in a folder of its own, ended with the demo."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from alignclip_store.job_status import FINISHED
from cli.client import ServiceClient
from cli.errors import CliError
from cli.home import running_serve
from cli.processes import Child, describe_exit, end_all

START_SECONDS = 180.0  # a cold disk reads torch slowly
STOP_SECONDS = 15.0  # serve ends its own processes in less than 10
POLL_SECONDS = 0.2


@contextmanager
def running_service(home: Path) -> Iterator[ServiceClient]:
    """A client of a service that works in `home`, until the block ends: then no process of it is left.

    Raises `CliError` when it does not start.
    """
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if other := running_serve(home):
        raise CliError(f"Process {other.pid} serves from {home} at {other.url}: another demo? Let it end, or stop it.")
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0"]
    child = Child("serve", command, _environment(home), home / "serve.log")
    child.log_file.unlink(missing_ok=True)
    child.start()
    try:
        client = ServiceClient(_wait_until_ready(child, home), (home / "api_key").read_text().strip())
        try:
            _cancel_unfinished_jobs(client)
            yield client
        finally:
            client.close()
    finally:
        end_all([child], STOP_SECONDS)


def _environment(home: Path) -> dict[str, str]:
    """Ours without the settings of another deployment, which would lead the demo to its database."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALIGNCLIP_")}
    return kept | {"ALIGNCLIP_HOME": str(home)}


def _wait_until_ready(child: Child, home: Path) -> str:
    """The service's address when it says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (exit_code := child.exit_code()) is not None:
            raise CliError(f"The service ended while starting ({describe_exit(exit_code)}):\n{child.last_lines()}")
        serve = running_serve(home)
        if serve is not None and _is_ready(serve.url):
            return serve.url
        time.sleep(POLL_SECONDS)
    raise CliError(f"The service is not ready after {START_SECONDS:g} s; the end of its log:\n{child.last_lines()}")


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=2.0, trust_env=False).is_success
    except httpx2.HTTPError:
        return False


def _cancel_unfinished_jobs(client: ServiceClient) -> None:
    """What a demo that was killed has left would train first."""
    for job in client.list_jobs(limit=100):
        if job["status"] not in FINISHED:
            client.change_job(job["id"], "cancel")
