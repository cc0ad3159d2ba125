"""Webhook messages that really go over a socket, to receivers that behave and to others."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from alignclip_store.database import reading, transaction
from alignclip_store.jobs import request_cancel
from alignclip_store.webhooks import DEFAULT_EVENT_TYPES, create_webhook, list_deliveries
from tests.worker.conftest import WAIT_SECONDS
from worker import deliveries
from worker.deliveries import deliver_due

OWNER = "owner"


class Receiver(ThreadingHTTPServer):
    """A server that keeps what it gets; `answer` is its status, or a function that writes what it likes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = 204
        self.got: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if callable(self.server.answer):
            self.server.answer(self)
            return
        self.send_response(self.server.answer)
        self.send_header("location", f"{self.server.url}/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver():
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def service(make_service):
    return make_service(allow_private_webhooks=True)


@pytest.fixture
def webhook(service, receiver):
    with transaction(service.engine) as session:
        return create_webhook(session, OWNER, url=f"{receiver.url}/hook?a=1", event_types=DEFAULT_EVENT_TYPES)


@pytest.fixture
def ended_job(service, webhook, archive):
    job_id = service.submit(archive, wakes=False)
    with transaction(service.engine) as session:
        request_cancel(session, OWNER, job_id)
    return job_id


def read_delivery(service, webhook):
    with reading(service.engine) as session:
        (delivery,) = list_deliveries(session, OWNER, webhook.id)
    return delivery


def test_the_reaper_sends_a_message_that_the_official_client_verifies(service, receiver, webhook, ended_job):
    service.start_reaper()
    deadline = time.monotonic() + WAIT_SECONDS
    while not (delivery := read_delivery(service, webhook)).delivered_at:
        assert time.monotonic() < deadline, service.logs()
        time.sleep(0.1)
    ((path, headers, body),) = receiver.got
    assert path == "/hook?a=1"
    with OpenAI(api_key="none") as client:
        event = client.webhooks.unwrap(body, headers, secret=webhook.secret)
        assert (event.type, event.data.id, event.id) == ("fine_tuning.job.cancelled", ended_job, delivery.id)
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.replace(b"cancelled", b"succeeded"), headers, secret=webhook.secret)
    assert webhook.secret not in service.logs()


@pytest.mark.parametrize("answer", [500, 404, 302])
def test_a_message_that_is_not_taken_is_tried_again_and_a_redirect_is_not_followed(
    service, receiver, webhook, ended_job, answer
):
    receiver.answer = answer
    assert deliver_due(service.engine, service.settings) == 1
    assert [path for path, _, _ in receiver.got] == ["/hook?a=1"]
    delivery = read_delivery(service, webhook)
    assert (delivery.delivered_at, delivery.num_tries) == (None, 1)
    assert delivery.last_error == f"The receiver answered {answer}."
    with transaction(service.engine) as session:
        (row,) = list_deliveries(session, OWNER, webhook.id)
        row.due_at = row.created_at
    receiver.answer = 200
    assert deliver_due(service.engine, service.settings) == 1
    assert read_delivery(service, webhook).delivered_at is not None
    assert receiver.got[0][1]["webhook-id"] == receiver.got[1][1]["webhook-id"], "the receiver can tell a repeat"


def test_a_receiver_that_dawdles_is_left(service, receiver, webhook, ended_job, monkeypatch):
    monkeypatch.setattr(deliveries, "SEND_SECONDS", 0.5)
    left = threading.Event()

    def dawdle(handler):
        try:
            while not left.wait(0.1):
                handler.wfile.write(b"H")  # a byte now and then keeps every timeout of a single read away
        except OSError:
            left.set()

    receiver.answer = dawdle
    deliver_due(service.engine, service.settings)
    assert "longer than 0.5 s" in read_delivery(service, webhook).last_error
    assert left.wait(WAIT_SECONDS), "the connection is closed"


def test_a_name_that_leads_inside_by_now_is_not_called(make_service, receiver, archive):
    service = make_service()  # private addresses are not allowed
    url = f"https://localhost:{receiver.server_address[1]}/"
    with transaction(service.engine) as session:
        webhook = create_webhook(session, OWNER, url=url, event_types=DEFAULT_EVENT_TYPES)
    job_id = service.submit(archive, wakes=False)
    with transaction(service.engine) as session:
        request_cancel(session, OWNER, job_id)
    deliver_due(service.engine, service.settings)
    assert receiver.got == []
    assert "not a public address" in read_delivery(service, webhook).last_error
