"""INSERT ... ON CONFLICT, which SQLAlchemy has once for each of our databases."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Executable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from alignclip_store.tables import Base


def insert_or_ignore(session: Session, table: type[Base]) -> Executable:
    """Insert each given row unless one with the same unique columns exists."""
    return _insert(session, table).on_conflict_do_nothing()


def insert_or_replace(
    session: Session, table: type[Base], *, unique: Sequence[str], replaced: Sequence[str]
) -> Executable:
    """Insert each given row; where its `unique` columns are taken, set the `replaced` columns of that row."""
    statement = _insert(session, table)
    values = {name: statement.excluded[name] for name in replaced}
    return statement.on_conflict_do_update(index_elements=list(unique), set_=values)


def _insert(session: Session, table: type[Base]) -> postgresql.Insert | sqlite.Insert:
    is_postgresql = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if is_postgresql else sqlite.insert(table)
