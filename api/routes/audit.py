"""The audit log: who changed what, for keys with the scope `admin`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from alignclip_store import tables
from alignclip_store.audit import list_entries, record_change
from alignclip_store.database import transaction
from alignclip_store.errors import EventNotFound
from api.answers import ListAnswer, page, seconds
from api.dependencies import AdminDep, After, Limit, ResourcesDep
from api.routes.api_keys import OwnerFilter

ENTRY_PREFIX = "audit-"
ALL_OWNERS = "*"

router = APIRouter(prefix="/v1/audit_log", tags=["admin"])


class AuditEntryAnswer(BaseModel):
    """One change, or one look by an admin. Nothing can alter it."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    created_at: int
    action: str = Field(examples=["job.create"])
    object_id: str
    owner: str = Field(description="Of the object.")
    actor_key_id: str = Field(description="`bootstrap`, `operator` (the terminal on the database), or a key's id.")
    actor_owner: str
    request_id: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    @classmethod
    def of(cls, row: tables.AuditEntry) -> AuditEntryAnswer:
        return cls(
            id=f"{ENTRY_PREFIX}{row.id}",
            created_at=seconds(row.created_at),
            action=row.action,
            object_id=row.object_id,
            owner=row.owner,
            actor_key_id=row.actor_key_id,
            actor_owner=row.actor_owner,
            request_id=row.request_id,
            before=row.before,
            after=row.after,
        )


@router.get("")
def list_audit_log(
    caller: AdminDep,
    resources: ResourcesDep,
    owner: OwnerFilter = None,
    object_id: Annotated[str | None, Query(min_length=1, max_length=320, description="Only of this object.")] = None,
    after: After = None,
    limit: Limit = 20,
    order: Literal["asc", "desc"] = "desc",
) -> ListAnswer[AuditEntryAnswer]:
    """What changed, newest first. Admins of the owner `default` see all owners, or the one they name.

    The look itself becomes an entry; it is not in its own answer.
    """
    named = caller.reach(owner) if owner is not None else caller.reach_of_ids
    with transaction(resources.engine) as session:
        rows, has_more = list_entries(
            session, named, after=_number(after), limit=limit, newest_first=order == "desc", object_id=object_id
        )
        record_change(session, caller.actor, "audit_log.read", named or ALL_OWNERS, owner=named)
    return page([AuditEntryAnswer.of(row) for row in rows], has_more)


def _number(after: str | None) -> int | None:
    if after is None:
        return None
    number = after.removeprefix(ENTRY_PREFIX)
    if not (number.isascii() and number.isdecimal()) or len(number) > 18:
        raise EventNotFound(f"No audit entry {after!r}.", param="after")
    return int(number)
