"""Alembic's entry: runs the revisions on the connection it was given, else on the database of the settings."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from alignclip_store.database import create_engine, migrating
from alignclip_store.settings import Settings
from alignclip_store.tables import Base, Json, Moment, Words


def plain_type(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """Our types as the plain ones behind them: a revision must not change when tables.py does."""
    if kind == "type" and isinstance(item, Moment):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Words):
        return "sa.Text()"
    if kind == "type" and isinstance(item, Json):
        return "sa.JSON().with_variant(JSONB(), 'postgresql')"
    return False


def run(connection: Connection) -> None:
    """Run the revisions in the transaction that the caller holds and commits."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by building it anew
        render_item=plain_type,
        compare_type=True,
    )
    context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    raise SystemExit("Migrations need a database: alembic's --sql is not supported, SQLite's steps read the tables.")
if given is not None:
    run(given)
else:
    with migrating(create_engine(Settings())) as opened:
        run(opened)
