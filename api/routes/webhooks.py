"""Webhooks: who is told when a job ends. The messages are those that the openai client's `webhooks.unwrap` verifies."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from alignclip_store import tables, webhooks
from alignclip_store.addresses import resolve_target
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from api.answers import DeletedAnswer, ListAnswer, page, seconds, seconds_or_none
from api.dependencies import CallerDep, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.schemas import RequestBody

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


class WebhookRequest(RequestBody):
    """Where to send what."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://example.com/hook"}]})

    url: str = Field(min_length=1, max_length=2048, description="https, at a public address.")
    events: Annotated[list[webhooks.EventType], Field(min_length=1)] = Field(list(webhooks.DEFAULT_EVENT_TYPES))


class WebhookAnswer(BaseModel):
    """Who is told."""

    id: str
    object: Literal["webhook"] = "webhook"
    created_at: int
    url: str
    events: list[str]
    secret: str | None = Field(None, description="Signs the messages. Told once: at its creation and its rotation.")

    @classmethod
    def of(cls, webhook: tables.Webhook, *, tells_secret: bool = False) -> WebhookAnswer:
        return cls(
            id=webhook.id,
            created_at=seconds(webhook.created_at),
            url=webhook.url,
            events=webhook.event_types,
            secret=webhook.secret if tells_secret else None,
        )


class DeliveryAnswer(BaseModel):
    """One message to a webhook."""

    id: str = Field(description="The `webhook-id` header of the message; the same at every try.")
    object: Literal["webhook.delivery"] = "webhook.delivery"
    type: str
    job_id: str
    created_at: int
    num_tries: int
    delivered_at: int | None
    next_try_at: int | None = Field(description="Null once it is delivered, or given up.")
    last_error: str | None

    @classmethod
    def of(cls, delivery: tables.Delivery) -> DeliveryAnswer:
        return cls(
            id=delivery.id,
            type=delivery.event_type,
            job_id=delivery.job_id,
            created_at=seconds(delivery.created_at),
            num_tries=delivery.num_tries,
            delivered_at=seconds_or_none(delivery.delivered_at),
            next_try_at=seconds_or_none(delivery.due_at),
            last_error=delivery.last_error,
        )


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_webhook(body: WebhookRequest, caller: CallerDep, resources: ResourcesDep) -> WebhookAnswer:
    """Be told when jobs end. The answer alone holds the secret that verifies the messages."""
    resolve_target(body.url, allow_private=resources.settings.allow_private_webhooks)
    with transaction(resources.engine) as session:
        webhook = webhooks.create_webhook(session, caller.owner, url=body.url, event_types=sorted(set(body.events)))
        record_change(session, caller.actor, "webhook.create", webhook.id, after={"events": webhook.event_types})
    return WebhookAnswer.of(webhook, tells_secret=True)


@router.get("")
def list_webhooks(owner: OwnerDep, resources: ResourcesDep) -> ListAnswer[WebhookAnswer]:
    """The owner's webhooks, newest first, without their secrets."""
    with reading(resources.engine) as session:
        rows = webhooks.list_webhooks(session, owner)
    return page([WebhookAnswer.of(row) for row in rows], has_more=False)


@router.post("/{webhook_id}/rotate")
def rotate_webhook(webhook_id: str, caller: CallerDep, resources: ResourcesDep) -> WebhookAnswer:
    """A new secret at once; the former one signs nothing any more."""
    with transaction(resources.engine) as session:
        webhook = webhooks.rotate_secret(session, caller.owner, webhook_id)
        record_change(session, caller.actor, "webhook.rotate", webhook_id)
    return WebhookAnswer.of(webhook, tells_secret=True)


@router.get("/{webhook_id}/deliveries")
def list_webhook_deliveries(webhook_id: str, owner: OwnerDep, resources: ResourcesDep) -> ListAnswer[DeliveryAnswer]:
    """The latest hundred messages to the webhook, newest first, and how they fared."""
    with reading(resources.engine) as session:
        rows = webhooks.list_deliveries(session, owner, webhook_id)
    return page([DeliveryAnswer.of(row) for row in rows], has_more=False)


@router.delete("/{webhook_id}")
def delete_webhook(webhook_id: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete a webhook and what was still to be sent to it."""
    with transaction(resources.engine) as session:
        webhooks.delete_webhook(session, caller.owner, webhook_id)
        record_change(session, caller.actor, "webhook.delete", webhook_id)
    return DeletedAnswer(id=webhook_id, object="webhook")
