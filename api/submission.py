"""The one use case of several steps: a request becomes a queued job, or is refused with the field and the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from alignclip_core.base_models import BaseModel
from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.encoder import check_fits
from alignclip_core.errors import DatasetInvalid
from alignclip_core.image_only import without_texts
from alignclip_store import jobs, tables
from alignclip_store.audit import record_change
from alignclip_store.database import reading, transaction
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.job_kinds import JobKind
from alignclip_store.limits import require_room_in_queue
from alignclip_store.queue import wake
from alignclip_store.repeats import find_keyed_job, find_repeated_job
from api import class_similarity
from api.authentication import Caller
from api.dependencies import Delivery
from api.errors import RequestInvalid
from api.layouts import read_layout_of
from api.resources import Resources
from api.schemas import FinetuneRequest
from api.test_datasets import read_test_datasets


class PreparedJob(NamedTuple):
    """What is checked and computed before a row is written."""

    config: FinetuneConfig
    similarity: tables.Similarity
    test_datasets: Sequence[Mapping[str, Any]]  # as a job keeps them


def submit_job(resources: Resources, caller: Caller, request: FinetuneRequest, delivery: Delivery) -> tables.Job:
    """The queued job of a request; the one that is there already when the client sent the request before."""
    owner = caller.owner
    # Equal bodies wait for each other, so that a repeat that overtakes its original still finds its job.
    with resources.computing.holding((owner, delivery.sha256)):
        repeated = find_repeated(resources, owner, JobKind.FINE_TUNING, delivery)
        if repeated is not None:
            return repeated
        job = _insert(resources, caller, request, delivery, prepare_job(resources, owner, request))
    wake(resources.queue, job.id)  # after the commit; a broker that is away only delays
    return job


def find_repeated(resources: Resources, owner: str, kind: JobKind, delivery: Delivery) -> tables.Job | None:
    """The job of that kind that this very request has made before, if any. Raises `RequestInvalid` for a key reused."""
    with reading(resources.engine) as session:
        if delivery.idempotency_key is not None:
            job = find_keyed_job(session, owner, kind, delivery.idempotency_key)
            if job is not None and job.request_sha256 != delivery.sha256:
                raise RequestInvalid(
                    f"Idempotency-Key {delivery.idempotency_key!r} came with another body before; take a new key.",
                    param="Idempotency-Key",
                    code="idempotency_key_reused",
                )
            return job
        return find_repeated_job(session, owner, kind, delivery.sha256) if delivery.is_retry else None


def prepare_job(
    resources: Resources,
    owner: str,
    request: FinetuneRequest,
    training: DatasetLayout | None = None,
    test_datasets: Sequence[Mapping[str, Any]] | None = None,
) -> PreparedJob:
    """Everything that is checked and computed before a row is written.

    `training` as for `check_request`; `test_datasets`: those of the request, where they were read already.
    """
    config, base_model = check_request(resources, owner, request, training)
    if test_datasets is None:
        test_datasets = read_test_datasets(resources, owner, request.test_datasets or ())
    similarity = class_similarity.find_or_compute(
        resources,
        owner,
        base_model,
        tuple(config.class_names.values()),
        config.templates,
        hyphens_to_spaces=config.hyphens_to_spaces,
    )
    return PreparedJob(config, similarity, test_datasets)


def check_request(
    resources: Resources, owner: str, request: FinetuneRequest, training: DatasetLayout | None = None
) -> tuple[FinetuneConfig, BaseModel]:
    """The complete config of a request, and its base model. Raises whatever makes the request impossible.

    `training`: what its training file lists, where that was read for the owner already.
    """
    base_model = resources.models.base_model(request.model)
    if not base_model.has_texts:
        raise without_texts(base_model.id, "a job here, which compares its classes by their texts, cannot train it")
    training = training or read_layout_of(resources, owner, request.training_file, param="training_file")
    validation = None
    if request.validation_file is not None:
        validation = read_layout_of(resources, owner, request.validation_file, param="validation_file", min_classes=1)
    class_names = resolve_class_names(training, request.class_names)
    config = request.to_config(base_model, class_names)
    check_fits(resources.models.tower_without_weights(base_model), config)
    try:
        split = split_dataset(training, config, validation)
    except DatasetInvalid as error:
        raise DatasetInvalid(error.message, param=error.param or "training_file") from error
    if request.n_epochs is not None and config.algorithm == "zero_shot":
        raise RequestInvalid("zero_shot trains nothing; leave n_epochs out.", param="n_epochs")
    if request.n_epochs is not None:
        steps_per_epoch = math.ceil(len(split.train) / config.global_batch_size)
        config = replace(config, num_steps=request.n_epochs * steps_per_epoch)
    return config, base_model


def _insert(
    resources: Resources,
    caller: Caller,
    request: FinetuneRequest,
    delivery: Delivery,
    prepared: PreparedJob,
) -> tables.Job:
    try:
        with transaction(resources.engine) as session:
            require_room_in_queue(session, caller.owner, resources.settings)
            job = insert_job(session, caller, request, delivery.body, prepared)
            job.request_sha256 = delivery.sha256
            job.idempotency_key = delivery.idempotency_key
            after = {"base_model": job.base_model, "request_sha256": delivery.sha256}
            record_change(session, caller.actor, "job.create", job.id, after=after)
    except FileNotFound as error:  # deleted since it was listed
        raise DatasetRejected(error.message, param=error.param) from error
    return job


def insert_job(
    session: Session,
    caller: Caller,
    request: FinetuneRequest,
    body: Mapping[str, Any],
    prepared: PreparedJob,
) -> tables.Job:
    """The job's row; `body` is what is kept as its request. Raises `FileNotFound`."""
    config, similarity, test_datasets = prepared
    return jobs.create_job(
        session,
        caller.owner,
        config=config.to_json(),
        request=body,
        training_file=request.training_file,
        validation_file=request.validation_file,
        test_datasets=test_datasets,
        suffix=request.suffix,
        labels=request.metadata or {},
        similarity_id=similarity.id,
        num_steps=config.num_steps,
        base_model=config.base_model,
        priority=request.priority,
    )
