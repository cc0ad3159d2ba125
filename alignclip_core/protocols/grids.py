"""A grid: one protocol asked of one dataset, for several methods and seeds, all at the same cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignclip_core.base_models import BaseModel
from alignclip_core.config import ALGORITHMS, FinetuneConfig, make_config
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.image_only import check_config, without_texts
from alignclip_core.protocols.cells import Cell, Choices, Protocol, ask, make_cells
from alignclip_core.protocols.methods import Method

LENGTH_FIELDS = ("num_steps", "warmup_steps")
DEFAULT_SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is compared, on what, and what every method may spend."""

    dataset: str
    protocol: Protocol
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = DEFAULT_SEEDS
    base_model: str = "starter"
    choices: Choices = field(default_factory=Choices)
    values: Mapping[str, Any] = field(default_factory=dict)  # fields of FinetuneConfig, the same for every method
    recipe: Mapping[str, Any] = field(default_factory=dict)  # weaker: an algorithm's own fields stand above it
    recipe_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by algorithm, or algorithm@preset

    def cells(self, layout: DatasetLayout) -> list[Cell]:
        """All of it. Raises `DatasetInvalid` where the protocol cannot be asked of this dataset."""
        questions = ask(self.protocol, layout, self.choices)
        return make_cells(self.base_model, self.dataset, questions, self.methods, self.seeds)

    def config_of(self, cell: Cell, base_model: BaseModel, class_names: Mapping[str, str]) -> FinetuneConfig:
        """The recipe < the algorithm's own of it < the method's < what the protocol asks.

        Raises `ConfigInvalid`, and `BaseModelUnfit` where texts are needed that the base model does not know.
        """
        method = cell.method
        config = make_config(
            base_model,
            class_names=class_names,
            algorithm=method.algorithm,
            preset=method.preset,
            given={**self.given_to(method), **cell.question.values, "seed": cell.seed},
        )
        if not base_model.has_texts:
            check_config(base_model.id, config)
            if cell.question.protocol == "dataset_shift":
                raise without_texts(base_model.id, "the classes of other datasets would stay unknown to it")
        return config

    def given_to(self, method: Method) -> dict[str, Any]:
        """The recipe's fields and the method's own; no length for a method that trains nothing."""
        own = ALGORITHMS[method.algorithm]
        recipe = {name: value for name, value in self.recipe.items() if name not in own}
        recipe |= self.recipe_of.get(method.head, self.recipe_of.get(method.algorithm, {}))
        given = {**recipe, **self.values, **method.values}
        if own.get("num_steps") == 0:
            return {name: value for name, value in given.items() if name not in LENGTH_FIELDS}
        return given
