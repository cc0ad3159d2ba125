"""Webhook messages on their way: the outbox is read, each message is signed and sent, its row is told how it went."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2
import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from standardwebhooks import Webhook

from alignclip_store.addresses import Target, resolve_target
from alignclip_store.database import transaction
from alignclip_store.errors import UrlRefused
from alignclip_store.settings import Settings
from alignclip_store.webhooks import DueDelivery, record_delivered, record_undelivered, take_due_deliveries

log = structlog.get_logger()

NUM_AT_ONCE = 8
SEND_SECONDS = 10.0  # for the whole of a try, whatever the receiver does meanwhile
PAUSE_SECONDS = 1.0  # between two looks at the outbox


class DeliveryFailed(Exception):
    """The receiver did not take a message."""


def deliver_due(engine: Engine, settings: Settings) -> int:
    """Send what is due, each message once; returns how many were tried. Several senders may do so at once."""
    with transaction(engine) as session:
        due = take_due_deliveries(session, NUM_AT_ONCE)
    with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        for _ in pool.map(lambda delivery: _deliver(engine, settings, delivery), due):
            pass
    return len(due)


def deliver_forever(engine: Engine, settings: Settings) -> None:
    """Look at the outbox every second; a database that is away only delays."""
    while True:
        try:
            num_tried = deliver_due(engine, settings)
        except (SQLAlchemyError, OSError) as error:
            log.warning("outbox_not_read", error=str(error))
            num_tried = 0
        if num_tried < NUM_AT_ONCE:
            time.sleep(PAUSE_SECONDS)


def _deliver(engine: Engine, settings: Settings, delivery: DueDelivery) -> None:
    try:
        send(delivery, allow_private=settings.allow_private_webhooks)
    except (DeliveryFailed, UrlRefused) as error:
        message = str(error)
        log.warning("webhook_not_delivered", delivery=delivery.id, job_id=delivery.job_id, error=message)
        with transaction(engine) as session:
            record_undelivered(session, delivery.id, message)
        return
    log.info("webhook_delivered", delivery=delivery.id, job_id=delivery.job_id)
    with transaction(engine) as session:
        record_delivered(session, delivery.id)


def send(delivery: DueDelivery, *, allow_private: bool) -> None:
    """POST the signed message. Raises `UrlRefused` and `DeliveryFailed`."""
    target = resolve_target(delivery.url, allow_private=allow_private)
    content = message_of(delivery)
    now = datetime.now(UTC)
    headers = {
        "Host": target.host if target.port in (80, 443) else f"{target.host}:{target.port}",
        "Content-Type": "application/json",
        "User-Agent": "alignclip-service",
        "webhook-id": delivery.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(delivery.secret).sign(delivery.id, now, content),
    }
    status = asyncio.run(_post(target, content, headers))
    if not 200 <= status < 300:
        raise DeliveryFailed(f"The receiver answered {status}.")


def message_of(delivery: DueDelivery) -> str:
    """The body, in OpenAI's form."""
    return json.dumps(
        {
            "id": delivery.id,
            "object": "event",
            "created_at": int(delivery.created_at.timestamp()),
            "type": delivery.event_type,
            "data": {"id": delivery.job_id},
        }
    )


async def _post(target: Target, content: str, headers: dict[str, str]) -> int:
    """The status of the answer. The connection goes to the address that was checked; the certificate is the name's."""
    address = f"[{target.address}]" if ":" in target.address else target.address
    url = f"{target.scheme}://{address}:{target.port}{target.path}"
    extensions = {"sni_hostname": target.host}
    try:
        async with (
            asyncio.timeout(SEND_SECONDS),  # httpx's own is for each read: a byte a second would hold it off for ever
            httpx2.AsyncClient(timeout=SEND_SECONDS, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, content=content, headers=headers, extensions=extensions) as answer,
        ):
            return answer.status_code  # its body stays unread
    except TimeoutError as error:
        raise DeliveryFailed(f"The receiver took longer than {SEND_SECONDS:g} s.") from error
    except httpx2.HTTPError as error:
        raise DeliveryFailed(f"{type(error).__name__}: {error}") from error
