"""API keys: made, found by their beginning, proved by an HMAC of their text, rotated and revoked.

The text of a key is random and long, so a fast keyed hash is enough: who has the database and not the pepper can
neither use a row nor test a guess against it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Literal, get_args

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from alignclip_store.audit import Actor, record_change
from alignclip_store.database import database_now
from alignclip_store.errors import KeyNotFound
from alignclip_store.ids import new_id
from alignclip_store.paging import list_page
from alignclip_store.tables import ApiKey

Scope = Literal["infer", "train", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

DEFAULT_OWNER = "default"  # of everything that the bootstrap key makes; its admins act for all owners
BOOTSTRAP_KEY_ID = "bootstrap"
OWNER_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"

PREFIX_LENGTH = 16  # acl_ and 12 letters of it find the row
USED_AGAIN_AFTER = timedelta(hours=1)  # a write per request would cost more than the request


def create_key(
    session: Session,
    actor: Actor,
    pepper: bytes,
    *,
    owner: str,
    name: str,
    scopes: Collection[Scope],
    expires_at: datetime | None = None,
) -> tuple[ApiKey, str]:
    """A new key's row and its text, which nobody can read again. Raises `ValueError` for what no key can have."""
    _check(owner, scopes)
    row, text = _new_key(session, pepper, owner=owner, name=name, scopes=scopes, expires_at=expires_at)
    record_change(session, actor, "api_key.create", row.id, owner=owner, after=_summary(row))
    return row, text


def find_key(session: Session, pepper: bytes, text: str) -> ApiKey | None:
    """The row of a key that is neither expired nor revoked; None for any other text."""
    row = session.scalar(select(ApiKey).where(ApiKey.prefix == text[:PREFIX_LENGTH]))
    # Compared in any case, so that the time tells nothing of whether the beginning is known.
    is_proved = hmac.compare_digest(_hmac(pepper, text), row.hmac_sha256 if row is not None else "0" * 64)
    if row is None or not is_proved or row.revoked_at is not None:
        return None
    if row.expires_at is not None and row.expires_at <= database_now(session):
        return None
    return row


def needs_use_recorded(session: Session, row: ApiKey) -> bool:
    """Whether its last recorded use is so long ago that `record_use` is worth a write."""
    return row.last_used_at is None or row.last_used_at < database_now(session) - USED_AGAIN_AFTER


def record_use(session: Session, key_id: str) -> None:
    """Remember that the key was used now."""
    session.execute(update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=database_now(session)))


def get_key(session: Session, owner: str | None, key_id: str, *, param: str | None = None) -> ApiKey:
    """The owner's key; anybody's when `owner` is None. Raises `KeyNotFound`, also for another owner's."""
    row = session.scalar(select(ApiKey).where(ApiKey.id == key_id, *_of(owner)))
    if row is None:
        raise KeyNotFound(f"No API key {key_id!r}.", param=param)
    return row


def list_keys(
    session: Session, owner: str | None, *, after: str | None = None, limit: int = 20
) -> tuple[list[ApiKey], bool]:
    """Up to `limit` keys behind the key `after`, newest first, and whether more follow; revoked ones too."""
    mark = get_key(session, owner, after, param="after") if after is not None else None
    return list_page(session, ApiKey, _of(owner), after=mark, limit=limit)


def rotate_key(
    session: Session, actor: Actor, pepper: bytes, owner: str | None, key_id: str, *, overlap: timedelta = timedelta()
) -> tuple[ApiKey, str]:
    """A new key with the rights of the old one and its text; the old one ends after `overlap`.

    Raises `KeyNotFound` for a key that has ended already: rotation must not wake it.
    """
    old = _lock_living_key(session, owner, key_id)
    before = _summary(old)
    now = database_now(session)
    row, text = _new_key(
        session, pepper, owner=old.owner, name=old.name, scopes=tuple(old.scopes), expires_at=old.expires_at
    )
    if overlap:
        old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    else:
        old.revoked_at = now
    session.flush()
    record_change(session, actor, "api_key.rotate", old.id, owner=old.owner, before=before, after=_summary(old))
    record_change(session, actor, "api_key.create", row.id, owner=row.owner, after=_summary(row))
    return row, text


def revoke_key(session: Session, actor: Actor, owner: str | None, key_id: str) -> ApiKey:
    """End a key now. Asking again changes nothing."""
    row = session.scalar(select(ApiKey).where(ApiKey.id == key_id, *_of(owner)).with_for_update())
    if row is None:
        raise KeyNotFound(f"No API key {key_id!r}.")
    if row.revoked_at is None:
        before = _summary(row)
        row.revoked_at = database_now(session)
        session.flush()
        record_change(session, actor, "api_key.revoke", row.id, owner=row.owner, before=before, after=_summary(row))
    return row


def _new_key(
    session: Session,
    pepper: bytes,
    *,
    owner: str,
    name: str,
    scopes: Collection[Scope] | Collection[str],
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    prefix = f"acl_{secrets.token_hex(6)}"
    text = f"{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        id=new_id("key"),
        owner=owner,
        name=name,
        prefix=prefix,
        hmac_sha256=_hmac(pepper, text),
        scopes=[scope for scope in SCOPES if scope in scopes],
        created_at=database_now(session),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, text


def _lock_living_key(session: Session, owner: str | None, key_id: str) -> ApiKey:
    now = database_now(session)
    living = (ApiKey.revoked_at.is_(None), or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now))
    row = session.scalar(select(ApiKey).where(ApiKey.id == key_id, *living, *_of(owner)).with_for_update())
    if row is None:
        raise KeyNotFound(f"No API key {key_id!r} that is still good; create a new one.")
    return row


def _check(owner: str, scopes: Collection[str]) -> None:
    if not re.fullmatch(OWNER_PATTERN, owner):
        raise ValueError(f"{owner!r} is no owner; wanted up to 64 letters, digits and . _ - such as team-a.")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ValueError(f"Scopes {unknown or 'are none'}; wanted some of {', '.join(SCOPES)}.")


def _of(owner: str | None) -> list[ColumnElement[bool]]:
    return [] if owner is None else [ApiKey.owner == owner]


def _hmac(pepper: bytes, text: str) -> str:
    return hmac.new(pepper, text.encode(errors="surrogatepass"), hashlib.sha256).hexdigest()


def _summary(row: ApiKey) -> dict[str, object]:
    """What the audit log says of a key."""
    return {
        "prefix": row.prefix,
        "scopes": list(row.scopes),
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "is_revoked": row.revoked_at is not None,
    }
