"""Health and readiness, and the application as the production command starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

ROOT = Path(__file__).parents[2]


def test_ready_with_database_and_broker(start_service, valkey_url):
    ready = start_service(broker_url=valkey_url).http.get("/readyz")
    expected = {"status": "ready", "database": "ok", "db_schema": "current", "broker": "ok", "silent_workers": 0}
    assert (ready.status_code, ready.json()) == (200, expected)


def test_degraded_without_a_broker(service):
    answer = service.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"], answer.json()["broker"]) == (200, "degraded", "unreachable")


def test_unavailable_without_a_database(start_service):
    service = start_service(database_url="postgresql://nobody@127.0.0.1:1/nothing")
    assert service.http.get("/healthz").json() == {"status": "ok"}
    answer = service.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert (answer.json()["database"], answer.json()["db_schema"]) == ("unreachable", None)
    listed = service.http.get("/v1/files")
    assert (listed.status_code, listed.json()["error"]["code"]) == (503, "database_unavailable")
    assert listed.json()["error"]["type"] == "server_error"


def test_unavailable_before_the_migrations(start_service, tmp_path):
    service = start_service(database_url=f"sqlite:///{tmp_path}/empty.db")
    answer = service.http.get("/readyz")
    assert (answer.status_code, answer.json()["db_schema"]) == (503, "empty")


def test_production_command_serves_and_logs_no_key(tmp_path, migrated_sqlite, models_dir):
    key = "acl-secret-of-the-log-test"
    environment = os.environ | {
        "ALIGNCLIP_HOME": str(tmp_path),
        "ALIGNCLIP_DATABASE_URL": f"sqlite:///{migrated_sqlite}",
        "ALIGNCLIP_MODELS_DIR": str(models_dir),
        "ALIGNCLIP_BOOTSTRAP_API_KEY": key,
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "api.main:create_app_from_environment"]
    log = tmp_path / "api.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--fd", "0", "--no-access-log"],
            cwd=ROOT,
            env=environment,
            stdin=(port := listening()),
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        wait_until_healthy(url, process)
        for given in (key, "acl-wrong-key"):
            httpx2.get(
                f"{url}/v1/models", headers={"authorization": f"Bearer {given}", "x-request-id": f"id-{given[4:9]}"}
            )
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)
        port.close()
    text = log.read_text()
    entries = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    answered = {entry["request_id"]: entry["status"] for entry in entries if entry.get("path") == "/v1/models"}
    assert answered == {"id-secre": 200, "id-wrong": 401}
    assert key not in text
    assert "acl-wrong-key" not in text


def listening():
    """A socket on a free port, handed to the server as it is: nobody else can take the port in between."""
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen(16)
    return opened


def wait_until_healthy(url, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        assert process.poll() is None, "the application ended"
        try:
            httpx2.get(f"{url}/healthz", timeout=5)
            return
        except httpx2.TransportError:
            time.sleep(0.1)
    pytest.fail("the application does not answer")
