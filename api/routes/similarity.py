"""Class similarity without a job."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from alignclip_core.config import TEMPLATE_SETS
from api import class_similarity
from api.answers import SimilarityAnswer
from api.dependencies import InferOwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.schemas import SimilarityRequest, resolve_templates

router = APIRouter(prefix="/v1/similarity", tags=["similarity"])


@router.post("", dependencies=[Depends(require_json)], response_model=SimilarityAnswer, responses=BODY_ERROR_ANSWERS)
def create_similarity(body: SimilarityRequest, owner: InferOwnerDep, resources: ResourcesDep) -> Response:
    """The matrix that a job with these names would train with; kept, so that the job need not compute it again."""
    base_model = resources.models.base_model(body.model)
    templates = resolve_templates(body.templates) or base_model.templates or TEMPLATE_SETS["default"]
    row = class_similarity.find_or_compute(
        resources, owner, base_model, body.class_names, templates, hyphens_to_spaces=body.hyphens_to_spaces
    )
    return class_similarity.to_response(
        row,
        class_similarity.load(resources, row),
        similarity_scale=body.similarity_scale,
        keep_diagonal=body.keep_diagonal,
    )
