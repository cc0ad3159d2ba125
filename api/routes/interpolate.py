"""Models between a tuned one and its base."""

from __future__ import annotations

from anyio import to_thread
from fastapi import APIRouter, Depends

from api.answers import ModelAnswer
from api.dependencies import CallerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.interpolation import interpolate
from api.schemas import InterpolateRequest

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post("/{model:path}/interpolate", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
async def interpolate_model(
    model: str, body: InterpolateRequest, caller: CallerDep, resources: ResourcesDep
) -> ModelAnswer:
    """Mix a tuned model with its base (WiSE-FT): weights (1 - alpha) base + alpha tuned, without training again.

    The mixture is a model of its own, which classifies like others. The same request again gives the same model.
    """
    row = await to_thread.run_sync(interpolate, resources, caller, model, body.alpha, limiter=resources.making_limiter)
    return ModelAnswer.of_tuned(row)
