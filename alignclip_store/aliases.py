"""Names that an owner gives to models and moves from one to the next in one commit: `production`, `candidate`."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from alignclip_store.database import database_now
from alignclip_store.errors import AliasNotFound, ModelInUse
from alignclip_store.tables import Alias
from alignclip_store.upsert import insert_or_replace


def set_alias(session: Session, owner: str, name: str, model_id: str) -> Alias:
    """The alias, new or moved. The model must have been looked up."""
    now = database_now(session)
    values = {"owner": owner, "name": name, "model_id": model_id, "created_at": now, "changed_at": now}
    statement = insert_or_replace(session, Alias, unique=("owner", "name"), replaced=("model_id", "changed_at"))
    session.execute(statement, [values])
    session.expire_all()
    return get_alias(session, owner, name)


def get_alias(session: Session, owner: str, name: str) -> Alias:
    """The owner's alias. Raises `AliasNotFound`, also for another owner's."""
    alias = session.get(Alias, (owner, name))
    if alias is None:
        raise AliasNotFound(f"No alias {name!r}.", param="name")
    return alias


def find_target(session: Session, owner: str, name: str) -> str | None:
    """Id of the model that the owner's alias points to; None where there is no such alias."""
    return session.scalar(select(Alias.model_id).where(Alias.owner == owner, Alias.name == name))


def list_aliases(session: Session, owner: str) -> list[Alias]:
    """All aliases of the owner, by name."""
    return list(session.scalars(select(Alias).where(Alias.owner == owner).order_by(Alias.name)))


def delete_alias(session: Session, owner: str, name: str) -> Alias:
    """Remove the name; the model stays."""
    alias = get_alias(session, owner, name)
    session.delete(alias)
    session.flush()
    return alias


def require_no_alias(session: Session, owner: str, model_id: str) -> None:
    """Raises `ModelInUse` while an alias points to the model."""
    names = session.scalars(select(Alias.name).where(Alias.owner == owner, Alias.model_id == model_id)).all()
    if names:
        raise ModelInUse(
            f"The alias {names[0]!r} points to {model_id!r}; move or delete the alias first.", param="model"
        )
