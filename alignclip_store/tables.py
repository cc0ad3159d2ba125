"""The rows. Columns only; every table but the workers' has an owner, every time is aware UTC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from alignclip_store.job_kinds import JobKind
from alignclip_store.job_status import JobStatus

Sequence = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up only INTEGER keys


class Moment(TypeDecorator[datetime]):
    """An aware UTC time on both databases (SQLite forgets the zone, PostgreSQL answers in its own)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; wanted an aware time, e.g. database_now(session).")
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that people wrote, without the few characters that PostgreSQL cannot store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return _storable(value) if value is not None else None


class Json(TypeDecorator[Any]):
    """Plain JSON on both databases: NaN and infinities become null, as PostgreSQL and other readers want it."""

    impl = JSON
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        none_as_null = JSON(none_as_null=True)
        return dialect.type_descriptor(JSONB(none_as_null=True) if dialect.name == "postgresql" else none_as_null)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _storable(value)


def _storable(value: Any) -> Any:
    """The value with NUL and lone surrogates replaced, and floats that JSON lacks as None."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_storable(str(key)): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class File(Base):
    """An uploaded dataset archive."""

    __tablename__ = "files"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # file-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    filename: Mapped[str] = mapped_column(Words)
    purpose: Mapped[str] = mapped_column(String(64))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    artifact_uri: Mapped[str] = mapped_column(Text)


class Upload(Base):
    """A file that comes in parts, one request each."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # upload-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime] = mapped_column(Moment)
    filename: Mapped[str] = mapped_column(Words)
    purpose: Mapped[str] = mapped_column(String(64))
    num_bytes: Mapped[int] = mapped_column(BigInteger)  # of the whole, as the client announced it
    status: Mapped[str] = mapped_column(String(16))  # pending, completed, cancelled, expired
    file_id: Mapped[str | None] = mapped_column(String(64))  # what it became; that may be deleted since


class UploadPart(Base):
    """Some bytes of an upload; their order is told at the end. Gone when the upload is."""

    __tablename__ = "upload_parts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # part-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    artifact_uri: Mapped[str] = mapped_column(Text)


class Similarity(Base):
    """A class-similarity matrix, stored once per (base model, templates, names)."""

    __tablename__ = "similarities"
    __table_args__ = (UniqueConstraint("owner", "cache_key"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # sim-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    cache_key: Mapped[str] = mapped_column(String(64))  # sha256 of what it is computed from
    sha256: Mapped[str] = mapped_column(String(64))  # ClassSimilarity.sha256
    base_model: Mapped[str] = mapped_column(String(128))
    num_classes: Mapped[int]
    artifact_uri: Mapped[str] = mapped_column(Text)  # ClassSimilarity file


class Job(Base):
    """What a client asked for: the row it polls. Queue, outbox and lease in one."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "status", "created_at"), Index(None, "owner", "created_at"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # ftjob-... or classify-...
    kind: Mapped[JobKind] = mapped_column(
        String(32), default=JobKind.FINE_TUNING, server_default=JobKind.FINE_TUNING.value
    )
    owner: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    status: Mapped[JobStatus] = mapped_column(String(32))
    phase: Mapped[str] = mapped_column(String(64), default="queued")  # the finer state, in words
    base_model: Mapped[str] = mapped_column(String(128))
    config: Mapped[dict[str, Any]] = mapped_column(Json)  # FinetuneConfig.to_json(); what a classification is asked
    request: Mapped[dict[str, Any]] = mapped_column(Json)  # the body as it came
    request_sha256: Mapped[str | None] = mapped_column(String(64))  # of its bytes: a repeated POST finds its job
    idempotency_key: Mapped[str | None] = mapped_column(String(255))  # the client's own name for that POST
    training_file: Mapped[str] = mapped_column(Text)  # file id or dataset reference, also of what is classified
    validation_file: Mapped[str | None] = mapped_column(Text)
    test_datasets: Mapped[list[dict[str, Any]]] = mapped_column(Json, server_default="[]")  # name, dataset, class_names
    suffix: Mapped[str | None] = mapped_column(String(64))
    labels: Mapped[dict[str, str]] = mapped_column("metadata", Json, default=dict)  # the client's metadata
    similarity_id: Mapped[str] = mapped_column(ForeignKey("similarities.id"))
    num_steps: Mapped[int]  # of a classification its images
    step: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime | None] = mapped_column(Moment)  # of the first run
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    estimated_finish_at: Mapped[datetime | None] = mapped_column(Moment)
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Moment)
    pause_requested_at: Mapped[datetime | None] = mapped_column(Moment)  # the wish; gone once it is paused or withdrawn
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)  # code, message, param
    result: Mapped[dict[str, Any] | None] = mapped_column(Json)  # zero_shot and tuned evaluations; counts of answers
    model_id: Mapped[str | None] = mapped_column(String(320))  # of the finished model; of the one that classifies
    priority: Mapped[int] = mapped_column(default=0, server_default="0")  # the highest is claimed first
    dataset: Mapped[dict[str, Any] | None] = mapped_column(Json)  # fingerprint and split, once the images are checked
    # the lease
    fence: Mapped[int] = mapped_column(default=0)  # number of the last claim; every later write carries it
    worker: Mapped[str | None] = mapped_column(String(256))
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    num_lost_runs: Mapped[int] = mapped_column(default=0)
    woken_at: Mapped[datetime | None] = mapped_column(Moment)  # last wake-up sent for it


class Run(Base):
    """One attempt of a worker at a job."""

    __tablename__ = "runs"
    __table_args__ = (UniqueConstraint("job_id", "fence"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # run-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    fence: Mapped[int]
    worker: Mapped[str] = mapped_column(String(256))
    host: Mapped[str] = mapped_column(String(256))
    device: Mapped[str] = mapped_column(String(256))
    started_at: Mapped[datetime] = mapped_column(Moment)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    outcome: Mapped[str | None] = mapped_column(String(32))  # succeeded, failed, cancelled, paused, stopped, lost
    log_uri: Mapped[str | None] = mapped_column(Text)
    num_devices: Mapped[int] = mapped_column(default=1, server_default="1")  # that it trains on; a CPU counts as one
    swept_at: Mapped[datetime | None] = mapped_column(Moment)  # when files that no row names were deleted


class Worker(Base):
    """A worker process by its last signs of life; it belongs to the operator."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(256), primary_key=True)  # Celery's node name
    host: Mapped[str] = mapped_column(String(256))
    device: Mapped[str] = mapped_column(String(256))
    started_at: Mapped[datetime] = mapped_column(Moment)
    seen_at: Mapped[datetime] = mapped_column(Moment)  # the process ran
    answered_at: Mapped[datetime] = mapped_column(Moment)  # it took a wake-up: the broker reaches it
    gpus: Mapped[list[dict[str, Any]]] = mapped_column(Json, server_default="[]")  # index, name, used and total bytes


class DatasetReport(Base):
    """What was found in a dataset before any job."""

    __tablename__ = "dataset_reports"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    reference: Mapped[str] = mapped_column(Text)
    content: Mapped[dict[str, Any]] = mapped_column(Json)


class Event(Base):
    """What happened to a job, in words."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "job_id", "id"),)

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    owner: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(Moment)
    level: Mapped[str] = mapped_column(String(16))  # info, warn, error
    type: Mapped[str] = mapped_column(String(16))  # message, metrics
    message: Mapped[str] = mapped_column(Words)
    data: Mapped[dict[str, Any] | None] = mapped_column(Json)


class Metric(Base):
    """Numbers of one step: the values of one `Record`."""

    __tablename__ = "metrics"
    __table_args__ = (UniqueConstraint("job_id", "step", "kind"),)

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    owner: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step: Mapped[int]
    kind: Mapped[str] = mapped_column(String(32))  # train, evaluation
    values: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime] = mapped_column(Moment)


class Checkpoint(Base):
    """A resume point whose files are complete in the artifact store."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "step"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # ckpt-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    step: Mapped[int]
    artifact_uri: Mapped[str] = mapped_column(Text)
    num_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    metrics: Mapped[dict[str, Any]] = mapped_column(Json)


class Model(Base):
    """A finished model: BMA weights and manifest in the artifact store."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(String(320), primary_key=True)  # ids.model_id
    owner: Mapped[str] = mapped_column(String(64), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    base_model: Mapped[str] = mapped_column(String(128))
    artifact_uri: Mapped[str] = mapped_column(Text)
    num_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    manifest: Mapped[dict[str, Any]] = mapped_column(Json)


class ResultFile(Base):
    """What a classification answered, a line an image, in the artifact store."""

    __tablename__ = "result_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    artifact_uri: Mapped[str] = mapped_column(Text)
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Alias(Base):
    """A name of an owner's for a model, such as `production`, that can be moved to another one."""

    __tablename__ = "aliases"

    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    model_id: Mapped[str] = mapped_column(String(320))  # of a tuned or a base model: the latter has no row
    created_at: Mapped[datetime] = mapped_column(Moment)
    changed_at: Mapped[datetime] = mapped_column(Moment)  # when it was last moved


class Evaluation(Base):
    """A protocol asked of a dataset for several methods and seeds: a grid of ordinary jobs."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # eval-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    name: Mapped[str] = mapped_column(Words)
    protocol: Mapped[str] = mapped_column(String(32))
    dataset: Mapped[str] = mapped_column(Text)  # file id or dataset reference
    base_model: Mapped[str] = mapped_column(String(128))
    cells: Mapped[list[dict[str, Any]]] = mapped_column(Json)  # method, target, seed, group, split, job_id
    cancel_requested_at: Mapped[datetime | None] = mapped_column(Moment)


class ApiKey(Base):
    """A key that clients show. Its text is nowhere: only what finds it and what proves it."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # key-...
    owner: Mapped[str] = mapped_column(String(64), index=True)  # whose jobs, files and models it reaches
    name: Mapped[str] = mapped_column(Words)
    prefix: Mapped[str] = mapped_column(String(32), unique=True)  # the beginning of its text; no secret
    hmac_sha256: Mapped[str] = mapped_column(String(64))  # of the whole text under the pepper
    scopes: Mapped[list[str]] = mapped_column(Json)  # infer, train, admin
    created_at: Mapped[datetime] = mapped_column(Moment)
    expires_at: Mapped[datetime | None] = mapped_column(Moment)
    revoked_at: Mapped[datetime | None] = mapped_column(Moment)
    last_used_at: Mapped[datetime | None] = mapped_column(Moment)  # to the hour or so


class AuditEntry(Base):
    """Who changed what. The database itself refuses to change or delete a row (a trigger of the migration)."""

    __tablename__ = "audit_log"
    __table_args__ = (Index(None, "owner", "id"),)

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    owner: Mapped[str] = mapped_column(String(64))  # of the object
    created_at: Mapped[datetime] = mapped_column(Moment)
    actor_key_id: Mapped[str] = mapped_column(String(64))  # bootstrap, cli or a key's id
    actor_owner: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))  # job.create, file.delete ...
    object_id: Mapped[str] = mapped_column(String(320))
    request_id: Mapped[str | None] = mapped_column(String(128))
    before: Mapped[dict[str, Any] | None] = mapped_column(Json)  # what matters of it, without users' text
    after: Mapped[dict[str, Any] | None] = mapped_column(Json)


class Webhook(Base):
    """Where an owner wants to be told of the ends of its jobs."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # wh-...
    owner: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment)
    disabled_at: Mapped[datetime | None] = mapped_column(Moment)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)  # whsec_...; signs, so it cannot be kept as a hash
    event_types: Mapped[list[str]] = mapped_column(Json)


class Delivery(Base):
    """One message to one webhook: written with what it tells of, in one transaction, and sent afterwards."""

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "due_at"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # evt-..., the receiver's key against repeats
    owner: Mapped[str] = mapped_column(String(64), index=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    event_type: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Moment)
    due_at: Mapped[datetime | None] = mapped_column(Moment)  # of the next try; None: delivered or given up
    num_tries: Mapped[int] = mapped_column(default=0)
    delivered_at: Mapped[datetime | None] = mapped_column(Moment)
    last_error: Mapped[str | None] = mapped_column(Words)
