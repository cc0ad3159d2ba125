"""Image and text embeddings, for searches and heads of one's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from typing import Annotated, Any, Literal

import torch
from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser
from torch import Tensor

from alignclip_core.encoder.text_tower import BATCH_SIZE
from alignclip_store.settings import Settings
from api.classify_forms import ImageSource, decode_base64, read_again, text_or_list
from api.dependencies import InferOwnerDep, ResourcesDep
from api.errors import BODY_ERROR_ANSWERS, MediaTypeUnsupported, RequestInvalid
from api.image_features import compute_features
from api.resources import Resources
from api.schemas import RequestBody
from api.served_models import DescribedModel, load_model
from api.uploads import parse_form

router = APIRouter(prefix="/v1/models", tags=["classify"])

Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Texts = Annotated[
    list[Text],
    BeforeValidator(
        lambda given: [given] if isinstance(given, str) else given, json_schema_input_type=Text | list[Text]
    ),
]


class EmbeddingsRequest(RequestBody):
    """What to embed: texts as they are, images in base64, or both."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["a photo of a cat."]}]})

    input: Texts = Field([], description="A text or a list of texts; no template is put around them.")
    images: list[str] = Field([], description="Images in base64.")


class Embedding(BaseModel):
    """One embedding, of unit length."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place in the request: among its texts, or among its images.")
    kind: Literal["text", "image"]
    embedding: list[float]


class EmbeddingsAnswer(BaseModel):
    """The embeddings of the texts in their order, then those of the images."""

    object: Literal["list"] = "list"
    model: str
    logit_scale: float = Field(description="Logits are this times the cosine of an image's and a text's embedding.")
    data: list[Embedding]


class _Wanted(BaseModel):
    """A request in whichever form it came."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    texts: list[str]
    images: list[ImageSource]
    form: FormData | None = None


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": EmbeddingsRequest.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "input": {
                            "oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}],
                            "description": "Repeated, or a JSON list.",
                        },
                    },
                }
            },
        },
    }
}


@router.post(
    "/{model:path}/embeddings",
    openapi_extra=_BODY,
    response_model=EmbeddingsAnswer,
    responses=BODY_ERROR_ANSWERS,
)
async def embed(model: str, request: Request, owner: InferOwnerDep, resources: ResourcesDep) -> Response:
    """Unit-length embeddings of images and texts in one space: their cosine says how well they fit."""
    resources.classify_turns.refuse_when_full()
    wanted = await _read(request, resources.settings)
    try:
        async with resources.classify_turns.turn():
            served, classifier = await to_thread.run_sync(load_model, resources, owner, model)
            texts = await _text_features(resources, served, wanted.texts)
            images = await resources.classify_turns.in_thread(
                lambda: compute_features(resources, classifier, wanted.images) if wanted.images else None
            )
    finally:
        if wanted.form is not None:
            await wanted.form.close()

    def write() -> str:
        data = [*_answers("text", texts), *_answers("image", images)]
        return EmbeddingsAnswer(model=served.id, logit_scale=classifier.logit_scale, data=data).model_dump_json()

    # Millions of numbers: the event loop, which all clients share, does not write them.
    return Response(await to_thread.run_sync(write), media_type="application/json")


async def _text_features(resources: Resources, model: DescribedModel, texts: Sequence[str]) -> Tensor | None:
    """Between its batches a request of many texts leaves the text tower to others."""

    def encode(batch: Sequence[str]) -> Tensor:
        with resources.models.encoding(model.base_model) as encoder:
            return encoder.encode(batch).cpu()

    batches = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
    features = [await to_thread.run_sync(encode, batch) for batch in batches]
    return torch.cat(features) if features else None


def _answers(kind: Literal["text", "image"], features: Tensor | None) -> list[Embedding]:
    rows = [] if features is None else features.tolist()
    return [Embedding(index=index, kind=kind, embedding=row) for index, row in enumerate(rows)]


async def _read(request: Request, settings: Settings) -> _Wanted:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        wanted = await _read_multipart(request, settings)
    elif kind == "application/json":
        wanted = await to_thread.run_sync(_from_json, await request.body())
    else:
        raise MediaTypeUnsupported(
            f"The body is {kind or 'of no content type'}; send application/json or multipart/form-data."
        )
    _check_counts(wanted, settings)
    return wanted


async def _read_multipart(request: Request, settings: Settings) -> _Wanted:
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=settings.max_images_per_request,
        max_fields=settings.max_labels_per_request,
    )
    form = await parse_form(parser)
    images: list[ImageSource] = []
    texts: list[str] = []
    for name, value in form.multi_items():
        if name in ("image", "images") and isinstance(value, UploadFile):
            images.append(ImageSource(value.filename or f"image {len(images)}", partial(read_again, value)))
        elif name == "input" and isinstance(value, str):
            texts.append(value)
        else:
            await form.close()
            raise RequestInvalid(f"Unknown field {name!r}; known: image (files), input (texts).", param=name)
    try:
        given = _validated({"input": text_or_list(texts, "input") or []})
    except (RequestInvalid, RequestValidationError):
        await form.close()
        raise
    return _Wanted(texts=given.input, images=images, form=form)


def _from_json(body: bytes) -> _Wanted:
    if not body:
        raise RequestInvalid("The body is empty; send texts in 'input', or images.", code="empty_body")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestInvalid(f"The body is not JSON: {error}.", code="invalid_json") from error
    given = _validated(content)
    contents = [decode_base64(text, "images") for text in given.images]
    images = [ImageSource(f"image {index}", BytesIO(content).read) for index, content in enumerate(contents)]
    return _Wanted(texts=given.input, images=images)


def _validated(content: Any) -> EmbeddingsRequest:
    try:
        return EmbeddingsRequest.model_validate(content)
    except ValidationError as error:  # told as FastAPI's own of other routes
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults, body=content) from error


def _check_counts(wanted: _Wanted, settings: Settings) -> None:
    limits: Mapping[str, tuple[int, int]] = {
        "input": (len(wanted.texts), settings.max_labels_per_request),
        "images": (len(wanted.images), settings.max_images_per_request),
    }
    for param, (count, most) in limits.items():
        if count > most:
            raise RequestInvalid(f"{count:,} in {param!r}; at most {most:,} are allowed.", param=param)
    if not wanted.texts and not wanted.images:
        raise RequestInvalid("Nothing to embed; send texts in 'input', or images.", param="input")
