"""Who is told when a job ends, and the outbox of what is still to be told.

A delivery is written in the transaction that ends the job, so neither is lost without the other. The reaper sends it.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import TooManyWebhooks, WebhookNotFound
from alignclip_store.ids import new_id
from alignclip_store.job_kinds import FACTS
from alignclip_store.tables import Delivery, Job, Webhook

FineTuningEventType = Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
EventType = (
    FineTuningEventType | Literal["classification.succeeded", "classification.failed", "classification.cancelled"]
)
DEFAULT_EVENT_TYPES: tuple[EventType, ...] = get_args(FineTuningEventType)  # those that OpenAI's clients know
MAX_WEBHOOKS = 20  # of one owner
RETRY_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 8 * 3600)  # after each try that failed; then it is given up
MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class DueDelivery:
    """What a sender needs; its next try is already set, so a sender that dies loses nothing."""

    id: str
    url: str
    secret: str
    event_type: str
    job_id: str
    created_at: datetime


def create_webhook(session: Session, owner: str, *, url: str, event_types: Sequence[str]) -> Webhook:
    """A webhook with a new secret. The url must have been checked. Raises `TooManyWebhooks`."""
    num_webhooks = session.scalar(select(func.count()).select_from(Webhook).where(Webhook.owner == owner)) or 0
    if num_webhooks >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"There are {num_webhooks} webhooks already; delete one first.")
    webhook = Webhook(
        id=new_id("wh"),
        owner=owner,
        created_at=database_now(session),
        url=url,
        secret=_new_secret(),
        event_types=list(event_types),
    )
    session.add(webhook)
    session.flush()
    return webhook


def get_webhook(session: Session, owner: str, webhook_id: str) -> Webhook:
    """The owner's webhook. Raises `WebhookNotFound`, also for another owner's."""
    webhook = session.scalar(select(Webhook).where(Webhook.id == webhook_id, Webhook.owner == owner))
    if webhook is None:
        raise WebhookNotFound(f"No webhook {webhook_id!r}.")
    return webhook


def list_webhooks(session: Session, owner: str) -> list[Webhook]:
    """All webhooks of the owner, newest first."""
    statement = select(Webhook).where(Webhook.owner == owner)
    return list(session.scalars(statement.order_by(Webhook.created_at.desc(), Webhook.id.desc())))


def rotate_secret(session: Session, owner: str, webhook_id: str) -> Webhook:
    """The webhook with a new secret; what is sent from now on is signed with it alone."""
    webhook = get_webhook(session, owner, webhook_id)
    webhook.secret = _new_secret()
    session.flush()
    return webhook


def delete_webhook(session: Session, owner: str, webhook_id: str) -> None:
    """Remove the webhook and what was still to be sent to it."""
    session.delete(get_webhook(session, owner, webhook_id))
    session.flush()


def list_deliveries(session: Session, owner: str, webhook_id: str, limit: int = 100) -> list[Delivery]:
    """The latest deliveries to the webhook, newest first."""
    get_webhook(session, owner, webhook_id)
    statement = select(Delivery).where(Delivery.webhook_id == webhook_id)
    return list(session.scalars(statement.order_by(Delivery.created_at.desc(), Delivery.id.desc()).limit(limit)))


def announce_end(session: Session, job: Job) -> None:
    """Note for every webhook of the job's owner that wants it that the job has ended."""
    now = database_now(session)
    event_type = f"{FACTS[job.kind].event_prefix}.{job.status}"
    statement = select(Webhook).where(Webhook.owner == job.owner, Webhook.disabled_at.is_(None))
    for webhook in session.scalars(statement):
        if event_type in webhook.event_types:
            delivery = Delivery(
                id=new_id("evt"),
                owner=job.owner,
                webhook_id=webhook.id,
                job_id=job.id,
                event_type=event_type,
                created_at=now,
                due_at=now,
            )
            session.add(delivery)
    session.flush()


def take_due_deliveries(session: Session, limit: int) -> list[DueDelivery]:
    """Up to `limit` deliveries whose time has come; each is set to its next try before anybody sends it."""
    now = database_now(session)
    statement = (
        select(Delivery, Webhook)
        .join(Webhook, Webhook.id == Delivery.webhook_id)
        .where(Delivery.due_at <= now)
        .order_by(Delivery.due_at, Delivery.id)
        .limit(limit)
        .with_for_update(of=Delivery, skip_locked=True)  # several reapers may run
    )
    taken = []
    for delivery, webhook in session.execute(statement.execution_options(populate_existing=True)):
        is_last = delivery.num_tries >= len(RETRY_SECONDS)
        delivery.due_at = None if is_last else now + timedelta(seconds=RETRY_SECONDS[delivery.num_tries])
        delivery.num_tries += 1
        taken.append(
            DueDelivery(
                id=delivery.id,
                url=webhook.url,
                secret=webhook.secret,
                event_type=delivery.event_type,
                job_id=delivery.job_id,
                created_at=delivery.created_at,
            )
        )
    session.flush()
    return taken


def record_delivered(session: Session, delivery_id: str) -> None:
    """The receiver took it. Nothing happens when its webhook was deleted meanwhile."""
    delivery = session.get(Delivery, delivery_id)
    if delivery is not None:
        delivery.delivered_at, delivery.due_at, delivery.last_error = database_now(session), None, None


def record_undelivered(session: Session, delivery_id: str, error: str) -> None:
    """Why the receiver did not take it; it is tried again while tries are left."""
    delivery = session.get(Delivery, delivery_id)
    if delivery is not None:
        delivery.last_error = error[:MAX_ERROR_CHARACTERS]


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
