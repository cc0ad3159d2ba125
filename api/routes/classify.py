"""Classify images with a base or a tuned model, in our form or in huggingface_hub's."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from api.answers import ClassifyAnswer, ModelAnswer, PredictionAnswer
from api.classification import classify
from api.classify_forms import DEFAULT_TOP_K, read_classify_request
from api.dependencies import InferOwnerDep, OwnerDep, ResourcesDep
from api.errors import BODY_ERROR_ANSWERS, ERROR_ANSWERS, in_both_forms, speaks_hugging_face
from api.resources import Resources
from api.served_models import find_model

router = APIRouter(prefix="/v1/models", tags=["classify"], responses=in_both_forms(ERROR_ANSWERS))

_NAMES = {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
_OPTIONS: dict[str, Any] = {
    "top_k": {"type": "integer", "minimum": 1, "description": f"Unset: {DEFAULT_TOP_K}, or all labels that are named."},
    "function_to_apply": {"type": "string", "enum": ["softmax", "sigmoid", "none"], "default": "softmax"},
    "calibrated": {
        "type": "boolean",
        "default": True,
        "description": "False: probabilities as the model gives them, though its job fitted a temperature.",
    },
}
_PARAMETERS = {  # huggingface_hub sends null for what is unset
    name: {"anyOf": [schema, {"type": "null"}]}
    for name, schema in {
        "candidate_labels": {"type": "array", "items": {"type": "string"}},
        "hypothesis_template": _NAMES,
        **_OPTIONS,
    }.items()
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "labels": _NAMES | {"description": "Repeated, or a JSON list. Unset: the model's own classes."},
                        "templates": _NAMES | {"description": "Unset: the model's own."},
                        **_OPTIONS,
                        "compare_with": {"type": "string", "description": "Another model, which also answers."},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {"type": "string", "format": "byte", "description": "An image in base64."},
                        "parameters": {"anyOf": [{"type": "object", "properties": _PARAMETERS}, {"type": "null"}]},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/{model:path}/classify",
    openapi_extra=_BODY,
    response_model=ClassifyAnswer | list[PredictionAnswer],
    responses=in_both_forms(BODY_ERROR_ANSWERS),
)
async def classify_images(model: str, request: Request, owner: InferOwnerDep, resources: ResourcesDep) -> Response:
    """The likeliest labels of one or many images; any labels, whether the model was trained on them or not.

    Multipart gets an object with every image's predictions. JSON and raw bytes, the forms that huggingface_hub sends,
    get a plain list of the one image's predictions.
    """
    resources.classify_turns.refuse_when_full()
    wanted = await read_classify_request(request, resources.settings)
    write = _predictions_of_one if speaks_hugging_face(request) else ClassifyAnswer.model_dump_json
    try:
        with request.app.state.measurements.classifying(len(wanted.images)):
            content = await resources.classify_turns.run(lambda: write(classify(resources, owner, model, wanted)))
    finally:
        if wanted.form is not None:
            await wanted.form.close()
    return Response(content, media_type="application/json")


@router.get("/{model:path}/classify/health")
def check_classify_health(model: str, owner: OwnerDep, resources: ResourcesDep) -> dict[str, str]:
    """200 where the model is; what `InferenceClient.health_check` asks."""
    _describe(resources, owner, model)
    return {"status": "ok"}


@router.get("/{model:path}/classify/info")
def retrieve_classify_info(model: str, owner: OwnerDep, resources: ResourcesDep) -> ModelAnswer:
    """The model; what `InferenceClient.get_endpoint_info` asks."""
    return _describe(resources, owner, model)


_PREDICTIONS = TypeAdapter(list[PredictionAnswer])


def _predictions_of_one(answer: ClassifyAnswer) -> bytes:
    return _PREDICTIONS.dump_json(answer.data[0].predictions)


def _describe(resources: Resources, owner: str, model: str) -> ModelAnswer:
    return ModelAnswer.of(find_model(resources, owner, model))
