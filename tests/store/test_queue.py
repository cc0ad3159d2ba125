"""Wake-ups through a real broker, and without one."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker

from alignclip_store.queue import MAX_WAITING, QUEUE, WORK_TASK, create_queue, wake
from alignclip_store.settings import Settings


@pytest.fixture
def queue(valkey_url: str, make_settings: Callable[..., Settings]) -> Iterator[Celery]:
    """An empty queue on a running broker."""
    with redis.Redis(unix_socket_path=valkey_url.removeprefix("redis+socket://")) as client:
        client.flushall()
    app = create_queue(make_settings(broker_url=valkey_url))
    yield app
    app.close()


def _waiting(app: Celery) -> list[tuple[str, list[object], dict[str, object]]]:
    """(task, arguments, keywords) of every message, read as a worker reads them."""
    found = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        while message := channel.basic_get(QUEUE, no_ack=True):
            arguments, keywords, _ = message.decode()
            found.append((message.headers["task"], arguments, keywords))
    return found


def test_a_wake_up_carries_the_jobs_id_alone(queue: Celery) -> None:
    assert wake(queue, "ftjob-1")
    assert wake(queue, "ftjob-2")
    assert _waiting(queue) == [(WORK_TASK, ["ftjob-1"], {}), (WORK_TASK, ["ftjob-2"], {})]


def test_keys_in_the_broker_carry_our_prefix(queue: Celery, valkey_url: str) -> None:
    wake(queue, "ftjob-1")
    with redis.Redis(unix_socket_path=valkey_url.removeprefix("redis+socket://")) as client:
        assert {key.startswith(b"alignclip:") for key in client.scan_iter()} == {True}


def test_wake_ups_that_nobody_reads_do_not_pile_up(queue: Celery) -> None:
    assert all(wake(queue, f"ftjob-{number}") for number in range(MAX_WAITING + 20))
    assert len(_waiting(queue)) == MAX_WAITING


def test_a_waiting_worker_gets_the_wake_up(queue: Celery) -> None:
    received: list[str] = []
    arrived = threading.Event()

    @queue.task(name=WORK_TASK)
    def work(job_id: str) -> None:
        received.append(job_id)
        arrived.set()

    with start_worker(queue, perform_ping_check=False, pool="solo"):
        assert wake(queue, "ftjob-1")
        assert arrived.wait(120)
    assert received == ["ftjob-1"]


def _quickly_refused(settings: Settings) -> None:
    """In a thread, because a wake-up that waits for the broker would wait for ever."""
    app = create_queue(settings)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(wake(app, "ftjob-1")), daemon=True)
    thread.start()
    thread.join(60)
    assert results == [False]


def test_without_a_broker_a_wake_up_is_given_up_at_once(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    _quickly_refused(make_settings(broker_url=f"redis+socket://{tmp_path}/none.sock"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _quickly_refused(make_settings(broker_url=f"redis://127.0.0.1:{free.getsockname()[1]}/0"))


def test_a_broker_that_does_not_answer_is_given_up_soon(make_settings: Callable[..., Settings]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        _quickly_refused(make_settings(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0"))


def test_messages_are_acknowledged_late_and_read_as_json_alone(queue: Celery) -> None:
    assert queue.conf.task_acks_late is True
    assert queue.conf.task_reject_on_worker_lost is False
    assert queue.conf.worker_prefetch_multiplier == 1
    assert queue.conf.accept_content == ["json"]
    assert queue.conf.result_backend is None
    assert queue.conf.broker_transport_options["visibility_timeout"] == 7 * 24 * 3600
