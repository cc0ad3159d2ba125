"""Whether the service lives, and whether it can work. Open to all: load balancers have no key."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError

from alignclip_store.database import SchemaState, reading, schema_state
from alignclip_store.queue import reaches_broker
from alignclip_store.workers import list_workers
from api.dependencies import ResourcesDep
from api.resources import Resources

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the service stands on.

    Without a broker, or with silent workers, jobs are taken and wait; without a database nothing works.
    """

    status: Literal["ready", "degraded", "unavailable"]
    database: Literal["ok", "unreachable"]
    db_schema: SchemaState | None
    broker: Literal["ok", "unreachable"]
    silent_workers: int = Field(description="Alive, but they leave a job waiting; GET /v1/queue names them.")


@router.get("/healthz")
async def get_health() -> Health:
    """Always 200 while the process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "No database, or not its newest schema."}})
def get_readiness(resources: ResourcesDep, response: Response) -> Readiness:
    """200 when requests can be served, if only with delay; 503 when not."""
    schema = _find_schema(resources)
    has_broker = reaches_broker(resources.queue)
    num_silent = _count_silent_workers(resources) if schema == "current" else 0
    if schema != "current":
        response.status_code = 503
    return Readiness(
        status="unavailable" if schema != "current" else "ready" if has_broker and not num_silent else "degraded",
        database="unreachable" if schema is None else "ok",
        db_schema=schema,
        broker="ok" if has_broker else "unreachable",
        silent_workers=num_silent,
    )


def _count_silent_workers(resources: Resources) -> int:
    with reading(resources.engine) as session:
        return sum(worker.status == "silent" for worker in list_workers(session, resources.settings))


def _find_schema(resources: Resources) -> SchemaState | None:
    try:
        return schema_state(resources.engine)
    except SQLAlchemyError:
        return None
