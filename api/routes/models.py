"""Base and tuned models: OpenAI's /models."""

from __future__ import annotations

from fastapi import APIRouter

from alignclip_core.base_models import list_base_models
from alignclip_store import models
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from api.answers import DeletedAnswer, ListAnswer, ModelAnswer, page
from api.dependencies import CallerDep, OwnerDep, ResourcesDep
from api.errors import RequestInvalid
from api.served_models import find_model

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(owner: OwnerDep, resources: ResourcesDep) -> ListAnswer[ModelAnswer]:
    """Everything that classifies: base models whose files are here, then tuned models, newest first."""
    cards = list_base_models(resources.settings.models_location)
    with reading(resources.engine) as session:
        tuned = models.list_models(session, owner)
    answers = [ModelAnswer.of_base(card) for card in cards if card.is_local and resources.models.allows(card)]
    return page(answers + [ModelAnswer.of_tuned(row) for row in tuned], has_more=False)


@router.get("/{model:path}")
def retrieve_model(model: str, owner: OwnerDep, resources: ResourcesDep) -> ModelAnswer:
    """One model; of an alias the one that it points to."""
    return ModelAnswer.of(find_model(resources, owner, model))


@router.delete("/{model:path}")
def delete_model(model: str, caller: CallerDep, resources: ResourcesDep) -> DeletedAnswer:
    """Delete a tuned model and its files. Its job stays."""
    if resources.models.find_base_model(model) is not None:
        raise RequestInvalid(f"{model!r} is a base model; only tuned models can be deleted.", param="model")
    with transaction(resources.engine) as session:
        row = models.delete_model(session, caller.owner, model)
        before = {"base_model": row.base_model, "weights_sha256": row.manifest.get("weights_sha256")}
        record_change(session, caller.actor, "model.delete", model, before=before)
    resources.models.forget(model)
    resources.artifacts.delete(row.artifact_uri)
    return DeletedAnswer(id=model, object="model")
