"""Aliases: names such as `production` that stand for a model in requests, and that one request moves."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from alignclip_store import aliases, models, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from api.answers import DeletedAnswer, ListAnswer, page, seconds
from api.dependencies import CallerDep, OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS, RequestInvalid
from api.schemas import RequestBody

router = APIRouter(prefix="/v1/aliases", tags=["models"])

AliasName = Annotated[
    str,
    Path(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="Letters, digits, `_`, `.`, `-`; no base model's id.",
    ),
]


class AliasRequest(RequestBody):
    """Where the alias points."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "starter"}]})

    model: str = Field(
        min_length=1, description="Id of a tuned or a base model; or an alias, for the model that it points to now."
    )


class AliasAnswer(BaseModel):
    """A name for a model."""

    id: str = Field(description="The name.")
    object: Literal["alias"] = "alias"
    model: str
    created_at: int
    changed_at: int = Field(description="When it was last moved.")

    @classmethod
    def of(cls, alias: tables.Alias) -> AliasAnswer:
        return cls(
            id=alias.name,
            model=alias.model_id,
            created_at=seconds(alias.created_at),
            changed_at=seconds(alias.changed_at),
        )


@router.get("")
def list_aliases(owner: OwnerDep, resources: ResourcesDep) -> ListAnswer[AliasAnswer]:
    """All aliases, by name."""
    with reading(resources.engine) as session:
        return page([AliasAnswer.of(row) for row in aliases.list_aliases(session, owner)], has_more=False)


@router.get("/{name}")
def retrieve_alias(name: AliasName, owner: OwnerDep, resources: ResourcesDep) -> AliasAnswer:
    """Where one alias points."""
    with reading(resources.engine) as session:
        return AliasAnswer.of(aliases.get_alias(session, owner, name))


@router.put("/{name}", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def set_alias(name: AliasName, body: AliasRequest, caller: CallerDep, resources: ResourcesDep) -> AliasAnswer:
    """Make the alias, or move it: each request meets the old model or the new one, and never none."""
    if resources.models.is_base_model(name):
        raise RequestInvalid(f"{name!r} is the id of a base model; choose another name.", param="name")
    with transaction(resources.engine) as session:
        target = aliases.find_target(session, caller.owner, body.model) or body.model
        if resources.models.find_base_model(target) is None:
            models.lock_model(session, caller.owner, target)  # it cannot be deleted meanwhile
        before = aliases.find_target(session, caller.owner, name)
        alias = aliases.set_alias(session, caller.owner, name, target)
        record_change(
            session,
            caller.actor,
            "alias.set",
            name,
            before=None if before is None else {"model": before},
            after={"model": target},
        )
        return AliasAnswer.of(alias)


@router.delete("/{name}")
def delete_alias(name: AliasName, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete the name. The model stays."""
    with transaction(resources.engine) as session:
        alias = aliases.delete_alias(session, caller.owner, name)
        record_change(session, caller.actor, "alias.delete", name, before={"model": alias.model_id})
    return DeletedAnswer(id=name, object="alias")
