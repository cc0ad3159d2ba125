"""Finished models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from alignclip_store.aliases import require_no_alias
from alignclip_store.database import database_now
from alignclip_store.errors import ModelInUse, ModelNotFound
from alignclip_store.ids import model_id
from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import FINISHED
from alignclip_store.tables import Job, Model


def create_model(
    session: Session, job: Job, *, artifact_uri: str, manifest: Mapping[str, Any], num_bytes: int = 0
) -> Model:
    """The model that the job made, of the job's owner."""
    model = Model(
        id=model_id(job.base_model, job.owner, job.suffix, job.id),
        owner=job.owner,
        job_id=job.id,
        created_at=database_now(session),
        base_model=job.base_model,
        artifact_uri=artifact_uri,
        num_bytes=num_bytes,
        manifest=dict(manifest),
    )
    session.add(model)
    session.flush()
    return model


def create_variant(
    session: Session, source: Model, *, name: str, artifact_uri: str, manifest: Mapping[str, Any], num_bytes: int = 0
) -> Model:
    """A model made of another one without a job of its own: `<id of the source>:<name>`, of the same owner and job."""
    variant = Model(
        id=variant_id(source, name),
        owner=source.owner,
        job_id=source.job_id,
        created_at=database_now(session),
        base_model=source.base_model,
        artifact_uri=artifact_uri,
        num_bytes=num_bytes,
        manifest=dict(manifest),
    )
    session.add(variant)
    session.flush()
    return variant


def variant_id(source: Model, name: str) -> str:
    """The id of a model made of another one."""
    return f"{source.id}:{name}"


def get_model(session: Session, owner: str, model_id: str) -> Model:
    """The owner's model. Raises `ModelNotFound`, also for another owner's."""
    model = session.scalar(select(Model).where(Model.id == model_id, Model.owner == owner))
    if model is None:
        raise ModelNotFound(f"No model {model_id!r}.", param="model")
    return model


def get_model_of_anyone(session: Session, model_id: str) -> Model:
    """The model, whoever owns it: for the operator. Raises `ModelNotFound`."""
    model = session.get(Model, model_id)
    if model is None:
        raise ModelNotFound(f"No model {model_id!r}.", param="model")
    return model


def lock_model(session: Session, owner: str, model_id: str) -> Model:
    """The owner's model, held until the transaction ends: to need it and to delete it exclude each other."""
    model = session.scalar(select(Model).where(Model.id == model_id, Model.owner == owner).with_for_update())
    if model is None:
        raise ModelNotFound(f"No model {model_id!r}.", param="model")
    return model


def asks_model(owner: Any, model_id: Any) -> ColumnElement[bool]:
    """Whether a `Job` is a classification of that owner's by that model, and has not ended."""
    is_going = and_(Job.kind == JobKind.CLASSIFICATION, Job.status.not_in(FINISHED))
    return and_(Job.owner == owner, Job.model_id == model_id, is_going)


def list_models(session: Session, owner: str) -> list[Model]:
    """All models of the owner, newest first."""
    statement = select(Model).where(Model.owner == owner).order_by(Model.created_at.desc(), Model.id.desc())
    return list(session.scalars(statement))


def delete_model(session: Session, owner: str, model_id: str) -> Model:
    """Remove the row and return it, so that the caller can delete its files after the commit.

    Raises `ModelInUse` while an alias points to it or a classification that has not ended needs it.
    """
    model = lock_model(session, owner, model_id)
    require_no_alias(session, owner, model_id)
    user = session.scalar(select(Job.id).where(asks_model(owner, model_id)).limit(1))
    if user is not None:
        raise ModelInUse(f"{user!r} classifies with {model_id!r}; cancel it or wait for its end.", param="model")
    session.delete(model)
    session.flush()
    return model
