"""What `alignclip keys` does on the database itself. Apart from it, since SQLAlchemy takes half a second to load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from alignclip_store import keys
from alignclip_store.audit import OPERATOR_KEY_ID, Actor
from alignclip_store.database import create_engine, database_now, schema_state, transaction
from alignclip_store.keys import Scope
from alignclip_store.settings import Settings, key_pepper
from alignclip_store.tables import ApiKey
from cli.errors import CliError

OPERATOR = Actor(key_id=OPERATOR_KEY_ID, owner=keys.DEFAULT_OWNER)


def create_key(
    settings: Settings, *, name: str, scopes: Sequence[Scope], owner: str, life: timedelta | None
) -> tuple[ApiKey, str]:
    """A new key and its text."""
    with _session(settings) as session:
        try:
            return keys.create_key(
                session,
                OPERATOR,
                key_pepper(settings),
                owner=owner,
                name=name,
                scopes=scopes,
                expires_at=database_now(session) + life if life is not None else None,
            )
        except ValueError as error:
            raise CliError(str(error)) from error


def list_keys(settings: Settings, owner: str | None) -> list[ApiKey]:
    """All keys, of one owner or of all, the newest first."""
    found: list[ApiKey] = []
    has_more = True
    with _session(settings) as session:
        while has_more:
            rows, has_more = keys.list_keys(session, owner, after=found[-1].id if found else None, limit=100)
            found += rows
    return found


def rotate_key(settings: Settings, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
    """The key's successor and its text."""
    with _session(settings) as session:
        return keys.rotate_key(session, OPERATOR, key_pepper(settings), None, key_id, overlap=overlap)


def revoke_key(settings: Settings, key_id: str) -> None:
    """End the key."""
    with _session(settings) as session:
        keys.revoke_key(session, OPERATOR, None, key_id)


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    engine = create_engine(settings)
    try:
        if schema_state(engine) != "current":
            raise CliError(
                "The database has not this version's schema; start `alignclip serve`, or `alignclip migrate`."
            )
        with transaction(engine) as session:
            yield session
    except SQLAlchemyError as error:
        raise CliError(f"The database cannot be used: {str(error).splitlines()[0]}") from error
    finally:
        engine.dispose()
