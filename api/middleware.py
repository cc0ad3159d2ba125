"""What happens around every request: its id, its line in the log, the answer to what nobody caught, its size limit."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from uuid import uuid4

import anyio
import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import error_response

REQUEST_ID_HEADERS = ("x-request-id", "x-amzn-trace-id")  # the second is huggingface_hub's
QUIET_PATHS = ("/healthz", "/readyz")  # asked every few seconds by machines
DRAIN_SECONDS = 5.0  # a client that is still sending reads a refusal only when its bytes are taken
DRAIN_BYTES = 64 * 2**20
MIN_BYTES_PER_SECOND = 1000  # of a body, on average: slower than any line that carries images

log = structlog.get_logger("api")


class RequestLog:
    """Gives each request an id, writes one line about it, and answers 500 where nobody caught an exception.

    Headers are never logged: Authorization may hold a user's token of another service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        request_id = _request_id(request)
        request.state.request_id = request_id
        started = time.perf_counter()
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except ClientDisconnect:
                log.info("client went away", method=request.method, path=request.url.path)
            except Exception:
                log.exception("unexpected error", method=request.method, path=request.url.path)
                if status is not None:
                    raise
                message = f"Something went wrong here; the log has it under the request id {request_id}."
                await error_response(request, 500, message, code="internal_error")(scope, receive, send_with_id)
            finally:
                seconds = round(time.perf_counter() - started, 4)
                level = logging.DEBUG if request.url.path in QUIET_PATHS else logging.INFO
                log.log(level, "request", method=request.method, path=request.url.path, status=status, seconds=seconds)


class BodyLimit:
    """Answers 413 to a body over the limit of its route: at once by its Content-Length, else when it gets there.

    And 408 to a client that pauses too long while it sends, or that drips its bytes to hold the connection.
    """

    def __init__(self, app: ASGIApp, limit_of: Callable[[Request], int], max_silence_seconds: float) -> None:
        self.app = app
        self.limit_of = limit_of
        self.max_silence_seconds = max_silence_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        limit = self.limit_of(request)
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            if "expect" not in request.headers:  # a client that asks first has sent nothing yet
                await _drain(receive)
            message = f"The body has {int(announced):,} bytes; {request.url.path} takes at most {limit:,}."
            await error_response(request, 413, message, code="body_too_large")(scope, receive, send)
            return
        num_bytes = 0
        is_complete = False
        waited_seconds = 0.0  # for the client alone: time that we ourselves take is not its fault

        async def receive_counted() -> Message:
            nonlocal num_bytes, is_complete, waited_seconds
            if is_complete:  # now it waits for the client to go away
                return await receive()
            left_seconds = self.max_silence_seconds + num_bytes / MIN_BYTES_PER_SECOND - waited_seconds
            started = anyio.current_time()
            try:
                with anyio.fail_after(max(min(self.max_silence_seconds, left_seconds), 0.0)):
                    message = await receive()
            except TimeoutError as error:
                text = f"The body came too slowly: {num_bytes:,} bytes, then nothing in time."
                raise HTTPException(408, text, headers={"Connection": "close"}) from error
            waited_seconds += anyio.current_time() - started
            is_complete = not message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise HTTPException(413, f"The body is over the {limit:,} bytes that {request.url.path} takes.")
            return message

        await self.app(scope, receive_counted, send)


async def _drain(receive: Receive) -> None:
    """Take what a client is sending, within bounds, so that it comes to read the answer."""
    num_bytes = 0
    with anyio.move_on_after(DRAIN_SECONDS):
        while num_bytes < DRAIN_BYTES:
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if not message.get("more_body"):
                return


def _request_id(request: Request) -> str:
    """The client's own id where it sends a plain one, else a new one."""
    for name in REQUEST_ID_HEADERS:
        given = request.headers.get(name, "")
        if re.fullmatch(r"[A-Za-z0-9._:=-]{1,128}", given):
            return given
    return f"req-{uuid4().hex}"
