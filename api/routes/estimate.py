"""What a fine-tune would take, before anything is queued."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from alignclip_core.config import PROMPT_LEARNERS
from alignclip_core.encoder import check_fits
from alignclip_store.database import reading
from alignclip_store.errors import QuotaExceeded
from alignclip_store.limits import require_room_in_queue
from alignclip_store.speed import measured_speed
from alignclip_store.waiting import view_queue
from api.answers import seconds_or_none
from api.dependencies import OwnerDep, ResourcesDep, require_json
from api.errors import BODY_ERROR_ANSWERS
from api.estimates import disk_bytes, peak_memory_bytes, train_seconds
from api.schemas import FinetuneRequest
from api.submission import check_request
from api.test_datasets import find_test_datasets

router = APIRouter(prefix="/v1/fine_tuning/estimate", tags=["fine-tuning"])


class EstimateAnswer(BaseModel):
    """Estimates, not promises."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    gpu_seconds: float = Field(
        description="Seconds times devices that train; of evaluations only those on test_datasets."
    )
    wall_seconds: float = Field(description="From the start of the job to its end.")
    start_estimate: int | None = Field(description="When it would start if it came now; null while no worker is known.")
    peak_gpu_bytes: int = Field(
        description="Counted for one device: weights, gradients, moments, the average's copies, and the activations of "
        "one micro batch in the forward pass's precision (auto: 16 bits)."
    )
    disk_bytes: int = Field(
        description="Resume points and model in the artifact store, at most; a run has its datasets on its own disk."
    )
    batch_size: int
    num_steps: int
    images_per_second: float
    measured_on: str | None = Field(description="Device of the jobs that the speed comes from; null: a default.")
    allowed_to_proceed: bool
    reasons: list[str] = Field(description="Why it may not proceed.")


@router.post("", dependencies=[Depends(require_json)], responses=BODY_ERROR_ANSWERS)
def estimate_job(body: FinetuneRequest, owner: OwnerDep, resources: ResourcesDep) -> EstimateAnswer:
    """Time, memory and disk of the very body that would create the job, and whether it may be created now.

    A body that no job can be made of is refused as it is there.
    """
    config, base_model = check_request(resources, owner, body)
    tests = find_test_datasets(resources, owner, body.test_datasets or ())
    texts = resources.models.text_encoder(base_model) if config.algorithm in PROMPT_LEARNERS else None
    size = check_fits(resources.models.tower_without_weights(base_model), config, texts)
    reasons = []
    with reading(resources.engine) as session:
        speed = measured_speed(session, base_model.id)
        start_at = view_queue(session).next_start_at
        try:
            require_room_in_queue(session, owner, resources.settings)
        except QuotaExceeded as error:
            reasons.append(error.message)
    seconds = train_seconds(config, speed, sum(test.num_images for test in tests))
    return EstimateAnswer(
        gpu_seconds=round(seconds * speed.num_devices, 1),
        wall_seconds=round(seconds, 1),
        start_estimate=seconds_or_none(start_at),
        peak_gpu_bytes=peak_memory_bytes(config, size),
        disk_bytes=disk_bytes(config, size, num_checkpoints=resources.settings.keep_checkpoints + 1),  # and the best
        batch_size=config.global_batch_size,
        num_steps=config.num_steps,
        images_per_second=round(speed.images_per_second, 2),
        measured_on=speed.device,
        allowed_to_proceed=not reasons,
        reasons=reasons,
    )
