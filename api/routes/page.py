"""The page that a person opens: static files of `api/web`, which speaks to the API as any other client does."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WEB = Path(__file__).parents[1] / "web"

# No inline script or style, and nothing from elsewhere. Pictures are the person's own (blob:) or the API's (data:).
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # browsers ask whether a file has changed: an upgrade is seen at once
}

router = APIRouter()


class WebFiles(StaticFiles):
    """The page's files with the headers that every one of them carries."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def show_page(request: Request) -> Response:
    """The page itself; where in it a person is stands behind the # of the address."""
    return await files.get_response("index.html", request.scope)


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def show_docs(request: Request) -> Response:
    """The API's own description, by a reader that comes with the page: FastAPI's fetches one from elsewhere."""
    return await files.get_response("docs.html", request.scope)


files = WebFiles(directory=WEB)
