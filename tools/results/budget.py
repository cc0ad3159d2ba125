"""What every method may spend in `make results`, the same for all: fixed before anything was measured.

The short budget asks every method every question; the long one, of as many steps as the starter's card has, asks those
between which the default is chosen.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignclip_core.config import ALGORITHMS, PRESETS, FinetuneConfig
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.protocols.cells import Choices, Protocol
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method

BASE_MODEL = "starter"
IMAGES_PER_CLASS = 30  # of each class in each domain: all that is trained and tested on
NUM_SHOTS = 4
NUM_WILD_TARGETS = 1  # domains that are left out together with classes
TEST_FRACTION = 0.2  # of datasets without domains
LONG_METHODS = ("finetune", "clipood", "alignclip", "alignclip@robust")


@dataclass(frozen=True)
class Budget:
    """The steps of every run, under which seeds, who is asked, and whether of datasets without domains too."""

    num_steps: int
    seeds: tuple[int, ...]
    asks_all_methods: bool
    needs_domains: bool

    @property
    def values(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "global_batch_size": 14,
            "validation_fraction": 0.1,
            "evaluate_every_steps": self.num_steps,
            "checkpoint_every_steps": self.num_steps,
        }

    def methods(self) -> tuple[Method, ...]:
        return every_method() if self.asks_all_methods else tuple(map(Method.parse, LONG_METHODS))


SHORT = Budget(num_steps=30, seeds=(0, 1, 2), asks_all_methods=True, needs_domains=False)
LONG = Budget(num_steps=150, seeds=(0, 1), asks_all_methods=False, needs_domains=True)


def every_method() -> tuple[Method, ...]:
    """Every algorithm, and beside it what only a preset or a head makes of one."""
    texts = list(ALGORITHMS)
    if any(field.name == "head" for field in dataclasses.fields(FinetuneConfig)):
        texts.append("finetune:head=linear")
    texts += [f"alignclip@{preset}" for preset in PRESETS if preset != "paper"]
    return tuple(Method.parse(text) for text in texts)


def grids_of(
    spent: Budget, dataset: str, layout: DatasetLayout, asked: tuple[Method, ...], seed: int
) -> Iterator[Grid]:
    """The protocols that a dataset allows: those that leave a domain out, or those that split its classes."""
    questions: list[tuple[Protocol, Choices]]
    if layout.domains:
        questions = [("domain_shift", Choices()), ("in_the_wild", Choices(targets=layout.domains[:NUM_WILD_TARGETS]))]
    elif spent.needs_domains:
        questions = []
    else:
        questions = [
            ("unseen_classes", Choices(test_fraction=TEST_FRACTION)),
            ("few_shot", Choices(test_fraction=TEST_FRACTION, num_shots=NUM_SHOTS)),
        ]
    for protocol, choices in questions:
        yield Grid(
            dataset=dataset,
            protocol=protocol,
            methods=asked,
            seeds=(seed,),
            base_model=BASE_MODEL,
            choices=choices,
            values=spent.values,
        )
