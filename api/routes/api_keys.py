"""API keys: made, listed, rotated and revoked by keys with the scope `admin`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from alignclip_store import keys, tables
from alignclip_store.audit import record_change
from alignclip_store.database import database_now, transaction
from alignclip_store.keys import OWNER_PATTERN, Scope
from api.answers import DeletedAnswer, ListAnswer, page, seconds, seconds_or_none
from api.dependencies import AdminDep, After, Limit, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.schemas import RequestBody

MAX_LIFE_SECONDS = 10 * 366 * 24 * 3600
MAX_OVERLAP_SECONDS = 30 * 24 * 3600

OwnerFilter = Annotated[
    str | None,
    Query(pattern=f"^{OWNER_PATTERN}$", description="Another owner than one's own; for admins of the owner `default`."),
]

router = APIRouter(prefix="/v1/api_keys", tags=["admin"])


class NewApiKey(RequestBody):
    """What a new key may do, and how long."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "shop camera", "scopes": ["infer"]}]})

    name: str = Field(min_length=1, max_length=200, description="For people, to know it again.")
    scopes: list[Scope] = Field(
        min_length=1,
        max_length=3,
        description="`infer`: read and classify. `train`: upload, create and stop jobs, delete. `admin`: keys, audit.",
    )
    expires_in_seconds: int | None = Field(
        None, ge=1, le=MAX_LIFE_SECONDS, description="Unset: it is good until it is revoked."
    )
    owner: str | None = Field(
        None,
        pattern=f"^{OWNER_PATTERN}$",
        description="Whose rows it sees and makes. Unset: one's own; only admins of the owner `default` name another.",
    )


class Rotation(RequestBody):
    """How a key gives way to its successor."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_seconds": 3600}]})

    overlap_seconds: int = Field(
        0, ge=0, le=MAX_OVERLAP_SECONDS, description="How long the old key stays good beside the new one."
    )


class ApiKeyAnswer(BaseModel):
    """A key without its text."""

    id: str
    object: Literal["api_key"] = "api_key"
    owner: str
    name: str
    prefix: str = Field(description="How its text begins.")
    scopes: list[Scope]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None = Field(description="To the hour.")

    @classmethod
    def of(cls, row: tables.ApiKey) -> ApiKeyAnswer:
        return cls.model_validate(_fields(row))


class NewApiKeyAnswer(ApiKeyAnswer):
    """A new key, with its text this once."""

    key: str = Field(description="Shown now and never again.")


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def create_api_key(body: NewApiKey, caller: AdminDep, resources: ResourcesDep) -> NewApiKeyAnswer:
    """Make a key. Its text is in this answer alone."""
    owner = caller.reach(body.owner)
    with transaction(resources.engine) as session:
        life = timedelta(seconds=body.expires_in_seconds) if body.expires_in_seconds is not None else None
        row, text = keys.create_key(
            session,
            caller.actor,
            resources.pepper,
            owner=owner,
            name=body.name,
            scopes=body.scopes,
            expires_at=database_now(session) + life if life is not None else None,
        )
    return NewApiKeyAnswer.model_validate({**_fields(row), "key": text})


@router.get("")
def list_api_keys(
    caller: AdminDep, resources: ResourcesDep, owner: OwnerFilter = None, after: After = None, limit: Limit = 20
) -> ListAnswer[ApiKeyAnswer]:
    """One owner's keys, newest first; ended ones too. The audit log notes who looked."""
    owner = caller.reach(owner)
    with transaction(resources.engine) as session:
        rows, has_more = keys.list_keys(session, owner, after=after, limit=limit)
        record_change(session, caller.actor, "api_key.list", owner, owner=owner)
    return page([ApiKeyAnswer.of(row) for row in rows], has_more)


@router.post("/{key_id}/rotate", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def rotate_api_key(
    key_id: str, caller: AdminDep, resources: ResourcesDep, body: Rotation | None = None
) -> NewApiKeyAnswer:
    """Make a key with the rights of this one, which ends at once or after `overlap_seconds`."""
    overlap = timedelta(seconds=body.overlap_seconds if body is not None else 0)
    with transaction(resources.engine) as session:
        row, text = keys.rotate_key(
            session, caller.actor, resources.pepper, caller.reach_of_ids, key_id, overlap=overlap
        )
    return NewApiKeyAnswer.model_validate({**_fields(row), "key": text})


@router.delete("/{key_id}")
def delete_api_key(key_id: str, caller: AdminDep, resources: ResourcesDep) -> DeletedAnswer:
    """Revoke a key: no request with it succeeds any more. Its row stays, for the audit log."""
    with transaction(resources.engine) as session:
        keys.revoke_key(session, caller.actor, caller.reach_of_ids, key_id)
    return DeletedAnswer(id=key_id, object="api_key")


def _fields(row: tables.ApiKey) -> dict[str, object]:
    return {
        "id": row.id,
        "owner": row.owner,
        "name": row.name,
        "prefix": row.prefix,
        "scopes": row.scopes,
        "created_at": seconds(row.created_at),
        "expires_at": seconds_or_none(row.expires_at),
        "revoked_at": seconds_or_none(row.revoked_at),
        "last_used_at": seconds_or_none(row.last_used_at),
    }
