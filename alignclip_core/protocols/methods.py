"""What a grid compares: an algorithm, with a preset and values of its own where wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alignclip_core.config import ALGORITHMS, FinetuneConfig, check_field_names
from alignclip_core.errors import ConfigInvalid

FORM = "ALGORITHM[@PRESET][:FIELD=VALUE,...]"
_TRAINED = {
    "zero_shot": "nothing",
    "coop": "context of the prompts",
    "cocoop": "context of the prompts and its meta-net",
    "dpl": "generator of the prompts",
}
_TRAINABLE = {
    "all": "image tower",
    "last_k_blocks": "last blocks of the image tower",
    "attention": "attention of the image tower",
    "query_key": "queries and keys of the image tower",
    "lora": "LoRA of the image tower",
}


@dataclass(frozen=True)
class Method:
    """One row of a result table."""

    text: str  # as it was given: its name in tables, rows and folders
    algorithm: str
    preset: str | None = None
    values: Mapping[str, Any] = ()  # type: ignore[assignment]

    @property
    def head(self) -> str:
        """Algorithm and preset, without the values."""
        return self.algorithm if self.preset is None else f"{self.algorithm}@{self.preset}"

    @classmethod
    def parse(cls, text: str) -> Method:
        """From its short form, such as `alignclip@authors_code` or `finetune:averaging=swad,head=linear`.

        A value is JSON where it can be read as such, else text. Raises `ConfigInvalid`.
        """
        head, _, assignments = text.partition(":")
        algorithm, _, preset = head.partition("@")
        if algorithm not in ALGORITHMS:
            raise ConfigInvalid(
                f"Unknown method {text!r}; it is {FORM} with an algorithm of: {', '.join(ALGORITHMS)}.", param="methods"
            )
        values: dict[str, Any] = {}
        for assignment in filter(None, assignments.split(",")):
            name, equals, value = assignment.partition("=")
            if not equals:
                raise ConfigInvalid(f"Method {text!r}: {assignment!r} is no FIELD=VALUE.", param="methods")
            values[name] = _read(value)
        check_field_names(values)
        return cls(text, algorithm, preset or None, values)


def what_is_trained(config: FinetuneConfig) -> str:
    """In words, for the result table."""
    if config.algorithm in _TRAINED:
        return _TRAINED[config.algorithm]
    head = " and a linear head" if getattr(config, "head", "text") == "linear" else ""
    return _TRAINABLE[config.trainable] + head


def _read(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value
