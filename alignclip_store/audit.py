"""The audit log: who changed what. An entry stands in the transaction of its change; there is no way to alter one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.tables import AuditEntry

OPERATOR_KEY_ID = "operator"  # whoever can write to the database itself needs no key


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who acts: a key and its owner, within a request."""

    key_id: str
    owner: str
    request_id: str | None = None


def record_change(
    session: Session,
    actor: Actor,
    action: str,
    object_id: str,
    *,
    owner: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> AuditEntry:
    """Add an entry about an object of `owner`; unset: of the actor's own. No secret and no text of users goes in."""
    entry = AuditEntry(
        owner=owner or actor.owner,
        created_at=database_now(session),
        actor_key_id=actor.key_id,
        actor_owner=actor.owner,
        action=action,
        object_id=object_id,
        request_id=actor.request_id,
        before=dict(before) if before is not None else None,
        after=dict(after) if after is not None else None,
    )
    session.add(entry)
    session.flush()
    return entry


def list_entries(
    session: Session,
    owner: str | None,
    *,
    after: int | None = None,
    limit: int = 20,
    newest_first: bool = True,
    object_id: str | None = None,
) -> tuple[list[AuditEntry], bool]:
    """Up to `limit` entries behind the number `after`, and whether more follow; of every owner when that is None."""
    statement = select(AuditEntry)
    if owner is not None:
        statement = statement.where(AuditEntry.owner == owner)
    if object_id is not None:
        statement = statement.where(AuditEntry.object_id == object_id)
    if after is not None:
        statement = statement.where(AuditEntry.id < after if newest_first else AuditEntry.id > after)
    order = AuditEntry.id.desc() if newest_first else AuditEntry.id
    rows = list(session.scalars(statement.order_by(order).limit(limit + 1)))
    return rows[:limit], len(rows) > limit
