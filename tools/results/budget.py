"""What every method may spend in `make results`, the same for all: fixed before anything was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from alignclip_core.config import ALGORITHMS, PRESETS, FinetuneConfig
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.protocols.cells import Choices, Protocol
from alignclip_core.protocols.grids import Grid
from alignclip_core.protocols.methods import Method

BASE_MODEL = "starter"
SEEDS = (0, 1, 2)
IMAGES_PER_CLASS = 30  # of each class in each domain: all that is trained and tested on
NUM_SHOTS = 4
NUM_WILD_TARGETS = 1  # domains that are left out together with classes
TEST_FRACTION = 0.2  # of datasets without domains
VALUES = {
    "num_steps": 30,
    "global_batch_size": 14,
    "validation_fraction": 0.1,
    "evaluate_every_steps": 30,
    "checkpoint_every_steps": 30,
}


def methods() -> tuple[Method, ...]:
    """Every algorithm, and beside it what only a preset or a head makes of one."""
    texts = list(ALGORITHMS)
    if any(field.name == "head" for field in dataclasses.fields(FinetuneConfig)):
        texts.append("finetune:head=linear")
    texts += [f"alignclip@{preset}" for preset in PRESETS if preset != "paper"]
    return tuple(Method.parse(text) for text in texts)


def grids_of(dataset: str, layout: DatasetLayout, asked: tuple[Method, ...], seed: int) -> Iterator[Grid]:
    """The protocols that a dataset allows: those that leave a domain out, or those that split its classes."""
    questions: list[tuple[Protocol, Choices]]
    if layout.domains:
        questions = [("domain_shift", Choices()), ("in_the_wild", Choices(targets=layout.domains[:NUM_WILD_TARGETS]))]
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
            values=VALUES,
        )
