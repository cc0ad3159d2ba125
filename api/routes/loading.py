"""Which models this API process holds in memory: load, pin and unload them before their clients come."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from alignclip_core.classifier import Classifier
from alignclip_store.audit import record_change
from alignclip_store.database import transaction
from api.answers import DeletedAnswer
from api.dependencies import AdminDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.resources import Resources
from api.schemas import RequestBody
from api.served_models import find_model

router = APIRouter(prefix="/v1", tags=["models"])


class LoadRequest(RequestBody):
    """How to load."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pin": True}]})

    pin: bool = Field(False, description="Keep it loaded whatever else is used, until it is unloaded.")


class LoadedModel(BaseModel):
    """A model in memory."""

    id: str
    object: Literal["loaded_model"] = "loaded_model"
    runtime: str
    precision: str
    num_bytes: int
    pinned: bool

    @classmethod
    def of(cls, resources: Resources, model_id: str, classifier: Classifier) -> LoadedModel:
        return cls(
            id=model_id,
            runtime=classifier.tower.runtime,
            precision=classifier.tower.precision,
            num_bytes=classifier.num_bytes,
            pinned=resources.models.is_pinned(model_id),
        )


class LoadedModels(BaseModel):
    """All of them, and the memory that they may take."""

    object: Literal["list"] = "list"
    data: list[LoadedModel]
    max_bytes: int


@router.get("/loaded_models")
def list_loaded_models(caller: AdminDep, resources: ResourcesDep) -> LoadedModels:
    """What this process holds, of every owner. With several API processes each answers for itself."""
    loaded = resources.models.classifiers().items()
    data = [LoadedModel.of(resources, model_id, classifier) for model_id, classifier in loaded]
    return LoadedModels(data=data, max_bytes=resources.settings.model_cache_bytes)


@router.post("/models/{model:path}/load", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def load_model(model: str, caller: AdminDep, resources: ResourcesDep, body: LoadRequest | None = None) -> LoadedModel:
    """Load a model and run it once, so that its first client waits for nothing. Of this process.

    Without a body it is loaded and not pinned.
    """
    found = find_model(resources, caller.owner, model)
    is_pinned = body is not None and body.pin
    classifier = resources.models.pin(found) if is_pinned else resources.models.classifier(found)
    with transaction(resources.engine) as session:
        record_change(session, caller.actor, "model.load", found.id, after={"pinned": is_pinned})
    return LoadedModel.of(resources, found.id, classifier)


@router.post("/models/{model:path}/unload")
def unload_model(model: str, caller: AdminDep, resources: ResourcesDep) -> DeletedAnswer:
    """Free the memory of a model, pinned or not. The next request for it loads it again."""
    found = find_model(resources, caller.owner, model)
    resources.models.forget(found.id)
    with transaction(resources.engine) as session:
        record_change(session, caller.actor, "model.unload", found.id)
    return DeletedAnswer(id=found.id, object="loaded_model")
