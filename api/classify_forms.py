"""The three forms of a classify request: multipart (ours), JSON and raw bytes (huggingface_hub's)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from alignclip_store.settings import Settings
from api.errors import MediaTypeUnsupported, RequestInvalid
from api.schemas import resolve_templates
from api.uploads import parse_form

ScoreFunction = Literal["softmax", "sigmoid", "none"]
SCORE_FUNCTIONS: tuple[ScoreFunction, ...] = ("softmax", "sigmoid", "none")
DEFAULT_TOP_K = 5  # where the labels are the model's own; labels that the caller names are all scored

IMAGE_FIELDS = ("image", "images", "image[]", "images[]")
OTHER_FIELDS = ("top_k", "function_to_apply", "calibrated", "compare_with")
TEXT_FIELDS = ("labels", "labels[]", "templates", "templates[]", *OTHER_FIELDS)
PARAMETERS = (
    "candidate_labels",
    "labels",
    "hypothesis_template",
    "templates",
    "top_k",
    "function_to_apply",
    "calibrated",
)
HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # a lone surrogate of UTF-16
RAW_KINDS = (
    "",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
)  # the last is curl's for --data-binary


@dataclass(frozen=True)
class ImageSource:
    """An image whose bytes are read when its turn comes."""

    filename: str
    read: Callable[[], bytes]


@dataclass(frozen=True, kw_only=True)
class ClassifyRequest:
    """What to classify, among which labels."""

    images: Sequence[ImageSource]
    labels: tuple[str, ...] | None = None  # None: the classes of the model's own
    labels_param: str = "labels"  # what the client calls them
    templates: tuple[str, ...] | None = None
    top_k: int | None = None
    score_function: ScoreFunction = "softmax"
    calibrated: bool = True  # where the model has a calibration
    compare_with: str | None = None  # another model's id or alias
    form: FormData | None = None  # holds the files of a multipart body until it is closed


async def read_classify_request(request: Request, settings: Settings) -> ClassifyRequest:
    """The request in whichever form it came. Raises `RequestInvalid` or `MediaTypeUnsupported`."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_multipart(request, settings)
    if kind == "application/json":
        return await run_in_threadpool(_read_json, await request.body())
    if kind in RAW_KINDS or kind.startswith("image/"):
        return _read_raw(await request.body())
    raise MediaTypeUnsupported(f"The body is {kind}; send multipart/form-data, application/json or an image.")


async def _read_multipart(request: Request, settings: Settings) -> ClassifyRequest:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=settings.max_images_per_request,
        max_fields=settings.max_labels_per_request + 100,
    )
    form = await parse_form(parser)
    try:
        return _from_form(form)
    except Exception:
        await form.close()
        raise


def _from_form(form: FormData) -> ClassifyRequest:
    fields: dict[str, list[str]] = {}
    images: list[ImageSource] = []
    for name, value in form.multi_items():
        if name in IMAGE_FIELDS:
            if not isinstance(value, UploadFile):
                raise RequestInvalid(f"{name} is text; send the image as a file.", param=name)
            images.append(ImageSource(value.filename or f"image {len(images)}", partial(read_again, value)))
        elif name in TEXT_FIELDS and isinstance(value, str):
            fields.setdefault(name.removesuffix("[]"), []).append(value)
        else:
            known = ", ".join(("image", "labels", "templates", *OTHER_FIELDS))
            raise RequestInvalid(f"Unknown field {name!r}; known: {known}.", param=name)
    if not images:
        raise RequestInvalid("The form has no image; send one or many files in its field `image`.", param="image")
    return ClassifyRequest(
        images=images,
        labels=_names(text_or_list(fields.get("labels"), "labels"), "labels"),
        templates=_templates(text_or_list(fields.get("templates"), "templates"), "templates"),
        top_k=_top_k(_typed(fields.get("top_k"))),
        score_function=_score_function(_typed(fields.get("function_to_apply"))),
        calibrated=_flag(_typed(fields.get("calibrated")), "calibrated"),
        compare_with=fields.get("compare_with", [None])[-1] or None,
        form=form,
    )


def read_again(file: UploadFile) -> bytes:
    """The whole content, however often it was read: two models may want it."""
    file.file.seek(0)
    return file.file.read()


def _read_json(body: bytes) -> ClassifyRequest:
    if not body:
        raise RequestInvalid("The body is empty; send an image.", param="inputs", code="empty_body")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("inputs"), str):
        raise RequestInvalid('Send {"inputs": "<image in base64>", "parameters": {...}}.', param="inputs")
    parameters = content.get("parameters", {})
    parameters = {} if parameters is None else parameters
    if not isinstance(parameters, Mapping):
        raise RequestInvalid("parameters must be an object.", param="parameters")
    for name in parameters:
        if name not in PARAMETERS:
            raise RequestInvalid(f"Unknown parameter {name!r}; known: {', '.join(PARAMETERS)}.", param=name)
    image = decode_base64(content["inputs"], "inputs")
    labels_param = "candidate_labels" if parameters.get("candidate_labels") is not None else "labels"
    return ClassifyRequest(
        images=[ImageSource("inputs", lambda: image)],
        labels=_names(parameters.get(labels_param), labels_param),
        labels_param=labels_param,
        templates=_templates(parameters.get("hypothesis_template"), "hypothesis_template")
        or _templates(parameters.get("templates"), "templates"),
        top_k=_top_k(parameters.get("top_k")),
        score_function=_score_function(parameters.get("function_to_apply")),
        calibrated=_flag(parameters.get("calibrated"), "calibrated"),
    )


def _read_raw(body: bytes) -> ClassifyRequest:
    if not body:
        raise RequestInvalid("The body is empty; send an image.", param="image", code="empty_body")
    return ClassifyRequest(images=[ImageSource("image", lambda: body)])


def decode_base64(text: str, param: str) -> bytes:
    """The bytes of an image in base64 or of a data URL. Raises `RequestInvalid`."""
    if text.startswith("data:"):
        _, _, text = text.partition(",")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestInvalid(f"{param} is not base64 ({error}); images by URL are not fetched.", param=param) from error


def text_or_list(values: list[str] | None, param: str) -> Any:
    """What a form's repeated field says: one value may be a JSON list."""
    if not values:
        return None
    if len(values) == 1 and values[0].lstrip().startswith("["):
        try:
            return json.loads(values[0])
        except (ValueError, RecursionError) as error:
            raise RequestInvalid(f"{param} begins like a JSON list and is none: {error}.", param=param) from error
    return values


def _typed(values: list[str] | None) -> str | int | bool | None:
    """What the last text of a form's field stands for: a whole number, a truth, or itself."""
    if not values:
        return None
    text = values[-1]
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else {"true": True, "false": False}.get(text.lower(), text)


def _names(given: Any, param: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise RequestInvalid(f"{param} must be a list of texts.", param=param)
    _check_characters(given, param)
    return tuple(given)


def _templates(given: Any, param: str) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, str) and not (isinstance(given, list) and all(isinstance(text, str) for text in given)):
        raise RequestInvalid(f"{param} must be a text or a list of texts.", param=param)
    _check_characters([given] if isinstance(given, str) else given, param)
    return resolve_templates(given, param=param)


def _check_characters(texts: Sequence[str], param: str) -> None:
    """JSON can write half of a character, which nothing else can: no tokenizer, and no answer."""
    for text in texts:
        if HALF_CHARACTER.search(text):
            raise RequestInvalid(f"{param} holds half of a character: {text!r}; send whole ones.", param=param)


def _top_k(given: Any) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise RequestInvalid(f"top_k must be a whole number from 1 on, got {given!r}.", param="top_k")
    return given


def _flag(given: Any, param: str) -> bool:
    """True where nothing is given."""
    if given is not None and not isinstance(given, bool):
        raise RequestInvalid(f"{param} must be true or false, got {given!r}.", param=param)
    return given is not False


def _score_function(given: Any) -> ScoreFunction:
    for name in SCORE_FUNCTIONS:
        if given in (None, name):
            return name
    raise RequestInvalid(
        f"function_to_apply is {given!r}; it may be {', '.join(SCORE_FUNCTIONS)}.", param="function_to_apply"
    )
