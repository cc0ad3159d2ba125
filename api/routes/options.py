"""What a fine-tune may choose: algorithms, presets, hyper-parameters."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from alignclip_core.config import ALGORITHMS, HYPERPARAMETERS, PRESETS, FinetuneConfig
from api.dependencies import OwnerDep

router = APIRouter(prefix="/v1/fine_tuning/options", tags=["fine-tuning"])

Values = dict[str, Any]


class OptionsAnswer(BaseModel):
    """The layers that a job's settings come from: defaults < model card < preset < algorithm < what a request gives."""

    object: Literal["fine_tuning.options"] = "fine_tuning.options"
    hyperparameters: Values = Field(description="Name to default; null stands for unset.")
    presets: dict[str, Values] = Field(description="What each changes. A model card may bring more.")
    algorithms: dict[str, Values] = Field(description="What each changes.")


@router.get("")
def list_options(owner: OwnerDep) -> OptionsAnswer:
    """The names that a job may use, with what each of them changes."""
    defaults = {field.name: field.default for field in fields(FinetuneConfig)}
    return OptionsAnswer(
        hyperparameters={name: defaults[name] for name in HYPERPARAMETERS},
        presets={name: dict(changes) for name, changes in PRESETS.items()},
        algorithms={name: dict(changes) for name, changes in ALGORITHMS.items()},
    )
