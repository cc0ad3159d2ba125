"""`alignclip serve` as a user runs it: everything starts from one command, and nothing is left behind."""

import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess

import httpx2
import pytest


def test_service_lives_is_ready_and_answers_the_key_alone(serve):
    with httpx2.Client(base_url=serve.url, trust_env=False, timeout=60) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").json()["status"] == "ready"
        assert client.get("/openapi.json").status_code == 200
        assert client.get("/v1/models").status_code == 401
        key = (serve.home / "api_key").read_text()
        models = client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
    assert models.status_code == 200
    assert "starter" in {model["id"] for model in models.json()["data"]}


def test_key_is_stored_for_the_owner_alone(serve):
    assert stat.S_IMODE((serve.home / "api_key").stat().st_mode) == 0o600


def test_broker_listens_on_no_port(serve, processes_of):
    (valkey,) = (process for process in processes_of(serve.home) if process.name() == "valkey-server")
    assert valkey.net_connections(kind="inet") == []


def test_every_process_has_a_session_of_its_own_and_a_log(serve, processes_of):
    children = [process for process in processes_of(serve.home) if process.ppid() == serve.process.pid]
    assert len(children) == 4
    assert {os.getsid(child.pid) for child in children} == {child.pid for child in children}
    assert {log.name for log in (serve.home / "logs").glob("*.log")} == {f"{name}.log" for name in NAMES}
    assert "celery@" in (serve.home / "logs" / "worker.log").read_text()


NAMES = ("api", "reaper", "valkey", "worker")


def test_second_serve_in_the_same_home_says_who_is_there(serve, alignclip):
    second = alignclip("serve", "--port", 0)
    assert second.returncode == 1
    assert f"Process {serve.process.pid} serves from {serve.home} at {serve.url}" in second.stderr
    assert "Traceback" not in second.stderr


def test_port_in_use_is_said_before_anything_starts(alignclip, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = alignclip("serve", "--port", port, ALIGNCLIP_HOME=str(tmp_path))
    assert refused.returncode == 1
    assert f"Port {port} is in use" in refused.stderr
    assert not (tmp_path / "alignclip.db").exists()


def test_database_that_does_not_answer_is_named_without_its_password(alignclip, tmp_path):
    url = "postgresql://someone:hidden@127.0.0.1:1/nothing"
    refused = alignclip("serve", "--port", 0, ALIGNCLIP_HOME=str(tmp_path), ALIGNCLIP_DATABASE_URL=url)
    assert refused.returncode == 1
    assert "127.0.0.1:1/nothing" in refused.stderr
    assert "hidden" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_wrong_setting_is_named(alignclip):
    refused = alignclip("serve", ALIGNCLIP_LEASE_SECONDS="soon")
    assert refused.returncode == 1
    assert refused.stderr.startswith("alignclip: ALIGNCLIP_LEASE_SECONDS: ")


def test_killed_worker_is_started_again(serve, processes_of, wait_until):
    def workers():
        return {
            process.pid
            for process in processes_of(serve.home)
            if process.ppid() == serve.process.pid and "worker.main" in " ".join(process.cmdline())
        }

    (worker,) = workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: workers() - {worker})
    wait_until(lambda: len(re.findall("celery@.* ready", (serve.home / "logs" / "worker.log").read_text())) == 2)


def test_killed_broker_is_started_again(serve, processes_of, wait_until):
    def valkeys():
        return {process.pid for process in processes_of(serve.home) if process.name() == "valkey-server"}

    (valkey,) = valkeys()
    os.kill(valkey, signal.SIGKILL)
    wait_until(lambda: valkeys() - {valkey})
    wait_until(lambda: httpx2.get(f"{serve.url}/readyz", trust_env=False, timeout=60).json()["broker"] == "ok")


def test_job_outlives_a_killed_serve_and_a_stopped_one(start_serve, pictures, processes_of, wait_until, tmp_path):
    """kill -9 of serve leaves no process; the next serve goes on; kill -TERM ends it soon, with a checkpoint."""
    home = tmp_path / "home"
    home.mkdir()
    first = start_serve(home)
    assert (home / "api_key").read_text() in first.words
    job_id = submit_long_job(first, pictures)
    wait_until(lambda: count(home, "metrics") > 0)
    assert any("alignclip_core.train" in " ".join(process.cmdline()) for process in processes_of(home))

    first.process.kill()
    first.process.wait()
    wait_until(lambda: not processes_of(home))

    second = start_serve(home)
    assert "API key" not in second.words
    wait_until(lambda: count(home, "runs") == 2 and query(home, "SELECT status FROM jobs") == [("running",)])
    wait_until(lambda: any("alignclip_core.train" in " ".join(process.cmdline()) for process in processes_of(home)))

    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(120) == 0
    assert processes_of(home) == []
    assert query(home, "SELECT id, status FROM jobs") == [(job_id, "queued")]
    assert query(home, "SELECT outcome FROM runs ORDER BY started_at") == [("lost",), ("stopped",)]
    assert not (home / "valkey.sock").exists()


def submit_long_job(serve, pictures):
    arguments = ["submit", str(pictures), "--steps", "100000", "--set", "global_batch_size=6"]
    alignclip = [*serve.process.args[:1], *arguments]
    submitted = subprocess.run(alignclip, env=serve.environment, capture_output=True, text=True, check=False)
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.strip()


def query(home, statement):
    with sqlite3.connect(home / "alignclip.db", timeout=30) as connection:
        rows = connection.execute(statement).fetchall()
    connection.close()
    return rows


def count(home, table):
    return query(home, f"SELECT count(*) FROM {table}")[0][0]


@pytest.mark.parametrize("command", ["jobs", "models"])
def test_client_of_a_stopped_service_says_what_to_do(alignclip, command):
    refused = alignclip(command, ALIGNCLIP_URL="http://127.0.0.1:1")
    assert refused.returncode == 1
    assert refused.stderr.startswith("alignclip: Nothing answers at http://127.0.0.1:1. Start the service with")
    assert len(refused.stderr.strip().splitlines()) == 1
