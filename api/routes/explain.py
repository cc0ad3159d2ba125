"""Where a model looks: class-token attention and patch-text similarity of an image and a label."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartParser

from api.classify_forms import ImageSource, read_again
from api.dependencies import InferOwnerDep, ResourcesDep
from api.errors import BODY_ERROR_ANSWERS, RequestInvalid
from api.explanation import ExplanationAnswer, explain
from api.uploads import parse_form, require_multipart

router = APIRouter(prefix="/v1/models", tags=["classify"])

FIELDS = ("image", "label", "compare_with")
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image", "label"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "label": {"type": "string", "description": "Any words, trained or not."},
                        "compare_with": {"type": "string", "description": "Another model, which is explained beside."},
                    },
                }
            }
        },
    }
}


@router.post("/{model:path}/explain", openapi_extra=_BODY, responses=BODY_ERROR_ANSWERS)
async def explain_image(
    model: str, request: Request, owner: InferOwnerDep, resources: ResourcesDep
) -> ExplanationAnswer:
    """Where the model looks in an image, and which patches resemble a label: maps as arrays and as PNG."""
    require_multipart(request)
    resources.explain_turns.refuse_when_full()
    parser = MultiPartParser(request.headers, request.stream(), max_files=len(FIELDS), max_fields=len(FIELDS))
    form = await parse_form(parser)
    try:
        source, label, other = _read(form)

        def explain_all() -> ExplanationAnswer:
            compared = explain(resources, owner, other, source, label) if other else None
            return explain(resources, owner, model, source, label).model_copy(update={"compared": compared})

        return await resources.explain_turns.run(explain_all)
    finally:
        await form.close()


def _read(form: FormData) -> tuple[ImageSource, str, str | None]:
    for name in form:
        if name not in FIELDS:
            raise RequestInvalid(f"Unknown field {name!r}; known: {', '.join(FIELDS)}.", param=name)
        if len(form.getlist(name)) > 1:
            raise RequestInvalid(f"The form has {name!r} more than once; explain takes one.", param=name)
    image, label, other = (form.get(name) for name in FIELDS)
    if not isinstance(image, UploadFile):
        raise RequestInvalid("The form has no file in its field `image`.", param="image")
    if not isinstance(label, str) or not label.strip():
        raise RequestInvalid("The form has no text in its field `label`; name what to look for.", param="label")
    if other is not None and not isinstance(other, str):
        raise RequestInvalid("compare_with is a file; send the id of a model.", param="compare_with")
    return ImageSource(image.filename or "image", lambda: read_again(image)), label, other or None
