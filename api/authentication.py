"""Who is behind a bearer key, and what the key may do."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections import OrderedDict
from dataclasses import dataclass

from sqlalchemy import Engine

from alignclip_store import keys
from alignclip_store.audit import Actor
from alignclip_store.database import reading, transaction
from api.errors import AuthenticationFailed, PermissionDenied
from api.rate_limits import RateLimits

MAX_PROVED = 10_000


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The key of a request that was found good."""

    key_id: str
    owner: str
    scopes: frozenset[str]
    request_id: str | None = None

    @property
    def actor(self) -> Actor:
        """The caller as the audit log names it."""
        return Actor(key_id=self.key_id, owner=self.owner, request_id=self.request_id)

    def require(self, scope: str) -> None:
        """Raises `PermissionDenied` for a key without the scope."""
        if scope not in self.scopes:
            has = ", ".join(sorted(self.scopes))
            raise PermissionDenied(f"This needs a key with the scope {scope!r}; yours has {has}.", code="missing_scope")

    def reach(self, owner: str | None) -> str:
        """The owner to act for: its own unless another is named. Raises `PermissionDenied` where it may not."""
        if owner not in (None, self.owner) and self.owner != keys.DEFAULT_OWNER:
            raise PermissionDenied(
                f"Only admins of the owner {keys.DEFAULT_OWNER!r} act for others.", param="owner", code="foreign_owner"
            )
        return owner or self.owner

    @property
    def reach_of_ids(self) -> str | None:
        """Whose ids an admin may name: None for everybody's."""
        return None if self.owner == keys.DEFAULT_OWNER else self.owner


class Authenticator:
    """Knows the bootstrap key by heart and finds all others in the database, so that a revoked one ends at once."""

    def __init__(self, engine: Engine, rate_limits: RateLimits, *, bootstrap_key: str, pepper: bytes) -> None:
        self._engine = engine
        self._rate_limits = rate_limits
        self._bootstrap_digest = _digest(bootstrap_key)
        self._pepper = pepper
        self._proved: OrderedDict[bytes, None] = OrderedDict()
        self._guard = threading.Lock()

    def find_caller(self, text: str, address: str, request_id: str | None) -> Caller:
        """Who the key is. Raises `AuthenticationFailed`, or `RateLimited` where the address guesses.

        Keys that were good here before are looked at in any case: one who guesses must not lock out a neighbour.
        """
        digest = _digest(text)
        if digest not in self._proved:
            self._rate_limits.refuse_guessing(address)
        caller = self._bootstrap(digest, request_id) or self._kept(text, request_id)
        if caller is None:
            self._rate_limits.count_failure(address)
            raise AuthenticationFailed("Incorrect API key; it is unknown, expired or revoked.")
        self._remember(digest)
        return caller

    def is_good(self, text: str) -> bool:
        """Whether a key that was good before still is: neither revoked nor expired since."""
        return self._bootstrap(_digest(text), None) is not None or self._kept(text, None) is not None

    def _bootstrap(self, digest: bytes, request_id: str | None) -> Caller | None:
        # Digests are of one length, so that the time of the comparison tells nothing of the key.
        if not hmac.compare_digest(digest, self._bootstrap_digest):
            return None
        return Caller(
            key_id=keys.BOOTSTRAP_KEY_ID,
            owner=keys.DEFAULT_OWNER,
            scopes=frozenset(keys.SCOPES),
            request_id=request_id,
        )

    def _kept(self, text: str, request_id: str | None) -> Caller | None:
        with reading(self._engine) as session:
            row = keys.find_key(session, self._pepper, text)
            is_use_new = row is not None and keys.needs_use_recorded(session, row)
        if row is None:
            return None
        if is_use_new:
            with transaction(self._engine) as session:
                keys.record_use(session, row.id)
        return Caller(key_id=row.id, owner=row.owner, scopes=frozenset(row.scopes), request_id=request_id)

    def _remember(self, digest: bytes) -> None:
        with self._guard:
            self._proved[digest] = None
            self._proved.move_to_end(digest)
            while len(self._proved) > MAX_PROVED:
                self._proved.popitem(last=False)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
