"""One table from exception class to HTTP status, and the two error bodies: OpenAI's and Hugging Face's.

ApiError                   what the HTTP edge itself refuses
├── RequestInvalid         400: the request says something that cannot be
├── AuthenticationFailed   401: no key, or not ours
├── ImageNotFound          404: a dataset has no such image, or is not where we can look
├── BodyTooLarge           413: more bytes than the route takes
├── MediaTypeUnsupported   415: a body of a kind that the route does not read
└── ExportFailed           500: the process that makes an export ended with an error
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from alignclip_core.errors import AlignClipError, ArtifactCorrupt, OutOfMemory, TrainingDiverged, TrainingStopped
from alignclip_store.errors import ArtifactMissing, LeaseLost, QuotaExceeded, RowNotFound, StoreError
from api.allowed_methods import allowed_methods

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """Base of all: `code` for machines, the message for people, `param` the field at fault."""

    code = "api_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code


class RequestInvalid(ApiError):
    code = "invalid_request"


class AuthenticationFailed(ApiError):
    code = "invalid_api_key"


class PermissionDenied(ApiError):
    code = "permission_denied"


class RateLimited(ApiError):
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class ImageNotFound(ApiError):
    code = "image_not_found"


class BodyTooLarge(ApiError):
    code = "body_too_large"


class MediaTypeUnsupported(ApiError):
    code = "unsupported_media_type"


class ExportFailed(ApiError):
    code = "export_failed"


# The nearest class of an exception's ancestry decides. Wrong input is 400, and never 409: clients retry that one.
STATUS_CODES: Mapping[type[Exception], int] = {
    RequestInvalid: 400,
    AuthenticationFailed: 401,
    PermissionDenied: 403,
    ImageNotFound: 404,
    BodyTooLarge: 413,
    MediaTypeUnsupported: 415,
    RateLimited: 429,
    ExportFailed: 500,
    AlignClipError: 400,
    TrainingDiverged: 500,
    TrainingStopped: 500,
    OutOfMemory: 503,
    ArtifactCorrupt: 500,
    StoreError: 400,
    RowNotFound: 404,
    QuotaExceeded: 429,
    ArtifactMissing: 500,
    LeaseLost: 500,
    OperationalError: 503,
}


class ErrorDetail(BaseModel):
    """What went wrong; the same four keys always."""

    message: str = Field(description="For people: what is wrong and what would do.")
    type: str = Field(description="Family of the error.", examples=["invalid_request_error"])
    param: str | None = Field(description="The field at fault.", examples=["training_file"])
    code: str | None = Field(description="For machines.", examples=["dataset_rejected"])


class ErrorAnswer(BaseModel):
    """Every error has this body, on every route."""

    error: ErrorDetail


class PlainErrorAnswer(BaseModel):
    """What the classify routes answer to requests in huggingface_hub's form; X-Error-Message says the same."""

    error: str


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Something in the request cannot be used; `param` names it."},
    401: {"model": ErrorAnswer, "description": "No API key, or not ours."},
    403: {"model": ErrorAnswer, "description": "The key has not the scope that this needs."},
    404: {"model": ErrorAnswer, "description": "No such thing of this owner."},
    429: {"model": ErrorAnswer, "description": "Too many requests, or a quota is used up; Retry-After says when."},
    "default": {"model": ErrorAnswer, "description": "Any other error has the same body."},
}
"""What the description of the API says of every route below /v1."""

BODY_ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    413: {"model": ErrorAnswer, "description": "More bytes than this route takes."},
    415: {"model": ErrorAnswer, "description": "A body of a kind that this route does not read."},
}
"""And beside it of every route that takes a body."""


def in_both_forms(answers: Mapping[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The same for the classify routes, whose errors have the form of the request."""
    return {status: answer | {"model": ErrorAnswer | PlainErrorAnswer} for status, answer in answers.items()}


def install_error_handlers(app: FastAPI) -> None:
    """Every error of a route, of the framework and of the database leaves in one of the two shapes."""
    for error_class in (ApiError, AlignClipError, StoreError):
        app.add_exception_handler(error_class, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(OperationalError, _answer_database)


def error_response(
    request: Request,
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The error in the form that the client of this request reads."""
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if speaks_hugging_face(request):
        headers["X-Error-Message"] = _header_text(message)
        return JSONResponse({"error": message}, status, headers)
    detail = {"message": message, "type": error_type(status), "param": param, "code": code}
    return JSONResponse({"error": detail}, status, headers)


def speaks_hugging_face(request: Request) -> bool:
    """Whether this is a request of the form that huggingface_hub sends: classify, and no multipart."""
    path = request.url.path
    if not path.startswith("/v1/models/") or not path.endswith(("/classify", "/classify/health", "/classify/info")):
        return False
    return not request.headers.get("content-type", "").lower().startswith("multipart/")


def status_of(error: Exception) -> int:
    """The HTTP status of an exception: that of its nearest class in the table, else 500."""
    return next((STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES), 500)


def error_type(status: int) -> str:
    """OpenAI's family name of a status."""
    special = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return special.get(status, "invalid_request_error" if status < 500 else "server_error")


async def _answer_ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError | AlignClipError | StoreError)
    status = status_of(error)
    if status >= 500:
        logger.error("%s: %s", type(error).__name__, error.message, exc_info=error)
    headers = {}
    if isinstance(error, RateLimited):
        headers = {"Retry-After": str(error.retry_after)}
    elif isinstance(error, QuotaExceeded):  # no waiting of a client's own helps: openai's must not try again
        headers = {"x-should-retry": "false"}
    return error_response(request, status, error.message, code=error.code, param=error.param, headers=headers)


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow", 413: "body_too_large"}.get(
        error.status_code
    )
    message = {
        404: f"There is no {request.method} {request.url.path}.",
        405: f"{request.url.path} does not take {request.method}.",
    }.get(error.status_code, str(error.detail))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = allowed_methods(request.url.path, request.app.openapi()) or headers.get("Allow", "")
    return error_response(request, error.status_code, message, code=code, headers=headers)


async def _answer_database(request: Request, error: Exception) -> JSONResponse:
    logger.error("The database does not answer", exc_info=error)
    return error_response(
        request,
        503,
        "The database does not answer; try again.",
        code="database_unavailable",
        headers={"Retry-After": "2"},
    )


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = error.errors()
    first = faults[0]
    if first["type"] == "json_invalid":
        return error_response(request, 400, f"The body is not JSON: {first['ctx']['error']}.", code="invalid_json")
    if first["type"] == "missing" and tuple(first["loc"]) == ("body",):
        return error_response(request, 400, "The body is empty; this route needs one.", code="empty_body")
    params = list(dict.fromkeys(_field(fault["loc"], error.body) for fault in faults))
    messages = {_field(fault["loc"], error.body): _reason(fault) for fault in reversed(faults)}
    text = "; ".join(f"{param}: {messages[param]}" for param in params[:5])
    return error_response(request, 400, text, code="invalid_request", param=params[0])


def _field(location: Sequence[Any], body: Any) -> str:
    """The path of a field as the client wrote it: a validator's own steps inside a union are left out."""
    place, *steps = location
    if place != "body" or not steps:
        return str(steps[0] if steps else place)
    names: list[str] = []
    for step in steps:
        is_there = step in body if isinstance(body, dict) else isinstance(body, list) and isinstance(step, int)
        if not is_there:
            break
        names.append(str(step))
        body = body[step]
    if not names or (len(names) < len(steps) and isinstance(body, dict)):
        names.append(str(steps[len(names)]))
    return ".".join(names)


def _reason(fault: Mapping[str, Any]) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    value = fault.get("input")
    shown = f", got {value!r}" if isinstance(value, str | int | float) and len(str(value)) <= 80 else ""
    return f"{message}{shown}" if fault["type"] not in ("missing", "value_error") else message


def _header_text(message: str) -> str:
    """A message as one header line: plain ASCII, no breaks."""
    return " ".join(message.split()).encode("ascii", "backslashreplace").decode()[:1000]
