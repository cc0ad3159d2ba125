"""The database: one engine per process, one place that commits, one clock, one way to the newest schema."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, event, func, make_url, select
from sqlalchemy.orm import Session

from alignclip_store.errors import SchemaNewer
from alignclip_store.settings import Settings

MIGRATIONS = Path(__file__).parents[1] / "migrations"

MIGRATION_LOCK = 0x414C4947  # any number that nobody else locks in our database

SchemaState = Literal["current", "older", "newer", "empty"]


def create_engine(settings: Settings) -> Engine:
    """The engine of `settings.database_location`. Make it after a fork: connections must not be shared.

    Raises `ValueError` for anything but SQLite in a file and PostgreSQL.
    """
    url = database_url(settings.database_location)
    if url.get_backend_name() == "postgresql":
        return sqlalchemy.create_engine(url, pool_pre_ping=True)
    Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sqlalchemy.create_engine(url)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin_on_sqlite)
    return engine


def database_url(location: str) -> URL:
    """The SQLAlchemy URL with the drivers that we use: psycopg 3 for every way to write PostgreSQL."""
    url = make_url(location.replace("postgres://", "postgresql://", 1))
    if url.get_backend_name() == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        wanted = "sqlite:////absolute/path.db or postgresql://user@host/database"
        raise ValueError(f"Cannot use the database {url.render_as_string(hide_password=True)!r}; wanted {wanted}.")
    return url.set(drivername="sqlite")


@contextmanager
def transaction(engine: Engine) -> Iterator[Session]:
    """A session that commits when the block ends and rolls back when it raises.

    On SQLite it takes the write lock at once (BEGIN IMMEDIATE): two that read and then write wait for each other
    instead of failing. Rows stay readable after the end.
    """
    bind = engine.execution_options(immediate=True)
    with Session(bind, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session for reads alone: it ends with a rollback."""
    with Session(engine, expire_on_commit=False) as session:
        yield session


def database_now(session: Session) -> datetime:
    """The time by the database's clock, which all processes share."""
    if session.get_bind().dialect.name == "sqlite":
        session.connection()  # begins here: a time from before the wait for the lock is older than what others wrote
        return datetime.now(UTC)  # SQLite lives in this process and has no other clock
    now = session.scalar(select(func.clock_timestamp()))
    assert isinstance(now, datetime)
    return now.astimezone(UTC)


def migrate(settings: Settings) -> None:
    """Bring the schema up to the newest revision; nothing happens when it is there already.

    Raises `SchemaNewer` where a later version has been: this one would not know what it writes.
    """
    engine = create_engine(settings)
    try:
        if schema_state(engine) == "newer":
            raise SchemaNewer(
                "The database was migrated by a later version of this service. Run that version, or restore the backup "
                "that was made before its upgrade."
            )
        with migrating(engine) as connection:
            command.upgrade(alembic_config(connection), "head")
    finally:
        engine.dispose()


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that no second migration enters; it commits at its end."""
    with engine.execution_options(immediate=True).connect() as connection:
        is_sqlite = connection.dialect.name == "sqlite"
        if is_sqlite:  # else the rebuilding of a table would cascade into those that refer to it
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
        try:
            with connection.begin():
                if not is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
                yield connection
        finally:
            if is_sqlite:
                connection.connection.driver_connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[union-attr]


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for commands on this connection, from any working directory."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def schema_state(engine: Engine) -> SchemaState:
    """How the schema stands to this code: "newer" means that a later version has migrated it."""
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        return "empty"
    newest, *older = _revisions()
    if revision == newest:
        return "current"
    return "older" if revision in older else "newer"


@cache
def _revisions() -> tuple[str, ...]:
    """All that this code knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


def _set_pragmas(connection: Any, record: object) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin_on_sqlite` does
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_on_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
