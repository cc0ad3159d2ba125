"""What routes ask for: the owner behind the key, the resources, a place in a list."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.errors import AuthenticationFailed, MediaTypeUnsupported, RequestInvalid
from api.resources import Resources

OWNER = "default"  # of everything that the bootstrap key makes
MAX_IDEMPOTENCY_KEY = 255

_bearer = HTTPBearer(auto_error=False, description="The API key that `alignclip serve` prints at its first start.")


def get_resources(request: Request) -> Resources:
    """What the lifespan opened."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


def get_owner(
    resources: ResourcesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """Owner of the bearer key. Raises `AuthenticationFailed`."""
    if credentials is None:
        raise AuthenticationFailed("No API key; send the header Authorization: Bearer <key>.", code="missing_api_key")
    # Digests are of one length, so that the time of the comparison tells nothing of the key.
    given, ours = (hashlib.sha256(key.encode()).digest() for key in (credentials.credentials, resources.api_key))
    if not hmac.compare_digest(given, ours):
        raise AuthenticationFailed("Incorrect API key.")
    return OWNER


OwnerDep = Annotated[str, Depends(get_owner)]


def get_is_retry(request: Request) -> bool:
    """Whether the client says that it sends this a second time: OpenAI's count their tries, and send no key."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isdecimal() and int(count) > 0


IsRetryDep = Annotated[bool, Depends(get_is_retry)]


@dataclass(frozen=True)
class Delivery:
    """How a POST came: enough to know it again when a client sends it a second time."""

    body: dict[str, Any]  # as it came
    sha256: str  # of its bytes
    idempotency_key: str | None
    is_retry: bool


async def get_delivery(request: Request, is_retry: IsRetryDep) -> Delivery:
    """The delivery of this request."""
    key = request.headers.get("idempotency-key") or None
    if key is not None and len(key) > MAX_IDEMPOTENCY_KEY:
        raise RequestInvalid(
            f"Idempotency-Key has {len(key)} characters; at most {MAX_IDEMPOTENCY_KEY}.", param="Idempotency-Key"
        )
    content = await request.body()
    try:
        body = json.loads(content)
    except ValueError:
        body = {}  # the route's own check of the body says so
    return Delivery(body if isinstance(body, dict) else {}, hashlib.sha256(content).hexdigest(), key, is_retry)


DeliveryDep = Annotated[Delivery, Depends(get_delivery)]


async def require_json(request: Request) -> None:
    """Raises `MediaTypeUnsupported` for a body that is there and does not call itself JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json") and await request.body():
        raise MediaTypeUnsupported(f"The body is {kind or 'of no content type'}; send application/json.")


After = Annotated[
    str | None, Query(min_length=1, max_length=256, description="Id of the last item of the page before this one.")
]
Limit = Annotated[int, Query(ge=1, le=100, description="Most items of this page.")]
