"""What routes ask for: who is behind the key and may this, the resources, a place in a list."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes

from api.authentication import Caller
from api.errors import AuthenticationFailed, MediaTypeUnsupported, RequestInvalid
from api.rate_limits import kind_of
from api.resources import Resources

# What only looks something up is async: FastAPI gives every other dependency a turn in a thread.

MAX_IDEMPOTENCY_KEY = 255

_bearer = HTTPBearer(
    auto_error=False, description="The key that `alignclip serve` prints at its first start, or another."
)


async def get_resources(request: Request) -> Resources:
    """What the lifespan opened."""
    resources: Resources = request.app.state.resources
    return resources


ResourcesDep = Annotated[Resources, Depends(get_resources)]


def get_caller(
    request: Request,
    wanted: SecurityScopes,
    resources: ResourcesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """Who is behind the bearer key: one whose key has the route's scopes, and who has not asked too often.

    A route that names no scope takes `infer` to read and `train` to change anything.
    """
    if credentials is None:
        raise AuthenticationFailed("No API key; send the header Authorization: Bearer <key>.", code="missing_api_key")
    address = request.client.host if request.client is not None else "local"
    caller = resources.authenticator.find_caller(credentials.credentials, address, request.state.request_id)
    kind = kind_of(request)
    for scope in wanted.scopes or (["infer"] if kind == "reads" else ["train"]):
        caller.require(scope)
    resources.rate_limits.count_request(kind, caller.key_id)
    return caller


CallerDep = Annotated[Caller, Security(get_caller)]
AdminDep = Annotated[Caller, Security(get_caller, scopes=["admin"])]


async def get_owner(caller: CallerDep) -> str:
    """Owner of the key, whose rows alone the route sees."""
    return caller.owner


OwnerDep = Annotated[str, Security(get_owner)]
InferOwnerDep = Annotated[str, Security(get_owner, scopes=["infer"])]  # of a POST that changes nothing


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
