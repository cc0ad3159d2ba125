"""The paper's questions to a dataset as cells of a grid: which classes and domains train, which accuracy answers.

Question    one way to divide a dataset: what it changes in the config, and the answers that its result holds
Cell        one answer of one method under one seed; cells of the same question, method and seed share a run
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.dataset.splits import TEST_DATASETS
from alignclip_core.errors import DatasetInvalid
from alignclip_core.protocols.methods import Method

Protocol = Literal["domain_shift", "dataset_shift", "unseen_classes", "in_the_wild", "few_shot"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Halves = Literal["ceil", "floor"]

TEST_FRACTION = 0.2  # where a dataset comes without test images of its own
NUM_SHOTS = 16  # CoOp's
BASE, NEW = "base", "new"
SOURCE = "source"  # of dataset_shift: the dataset that trains


@dataclass(frozen=True)
class Answer:
    """One accuracy that a run gives."""

    target: str  # a domain, base, new, all, or the name of another dataset
    split: str  # in words: on which images, among which classes
    group: tuple[str, str]  # of the run's result; of another dataset TEST_DATASETS and its name


@dataclass(frozen=True)
class Question:
    """One way to divide a dataset, and the answers that a run on it gives."""

    protocol: Protocol
    name: str  # of its run's folder
    values: Mapping[str, Any]  # fields of FinetuneConfig
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One answer of one method under one seed."""

    base_model: str
    dataset: str
    question: Question
    answer: Answer
    method: Method
    seed: int

    @property
    def run_name(self) -> str:
        """The folder of its run below the output folder."""
        parts = (
            self.base_model,
            self.dataset,
            self.question.protocol,
            self.question.name,
            self.method.text,
            f"seed-{self.seed}",
        )
        return "/".join(re.sub(r"[^\w.=@,+-]+", "_", part) for part in parts)

    @property
    def key(self) -> tuple[str, str, str, str, str, int]:
        """What tells it from every other cell of an output folder."""
        return (self.base_model, self.dataset, self.question.protocol, self.answer.target, self.method.text, self.seed)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a protocol leaves open."""

    targets: tuple[str, ...] = ()  # of its domains; (): each in turn
    halves: Halves | None = None  # of an odd number of classes, how many are base; None: as the protocol's source
    num_shots: int | None = None
    test_fraction: float | None = None  # None: none where a domain is left out, else TEST_FRACTION
    test_sets: tuple[str, ...] = ()  # of dataset_shift


def ask(protocol: Protocol, layout: DatasetLayout, choices: Choices = Choices()) -> list[Question]:
    """The questions of a protocol to a dataset. Raises `DatasetInvalid` where it cannot be asked."""
    if protocol == "domain_shift":
        return [_domain_shift(domain, choices) for domain in _targets(layout, choices)]
    if protocol == "in_the_wild":
        return [_in_the_wild(layout, domain, choices) for domain in _targets(layout, choices)]
    if protocol == "unseen_classes":
        return [_unseen_classes(layout, choices)]
    if protocol == "few_shot":
        return [_few_shot(choices)]
    return [_dataset_shift(choices)]


def make_cells(
    base_model: str, dataset: str, questions: Iterable[Question], methods: Sequence[Method], seeds: Sequence[int]
) -> list[Cell]:
    """Every answer of every method under every seed; seed by seed, so that a broken-off grid compares all methods."""
    asked = list(questions)
    return [
        Cell(base_model=base_model, dataset=dataset, question=question, answer=answer, method=method, seed=seed)
        for seed in seeds
        for question in asked
        for method in methods
        for answer in question.answers
    ]


def base_classes(class_names: Iterable[str], halves: Halves) -> tuple[str, ...]:
    """The first half of the sorted classes: with one more of an odd number (CoOp), or one fewer (DomainBed's kin)."""
    names = sorted(class_names)
    return tuple(names[: (len(names) + (halves == "ceil")) // 2])


def _domain_shift(domain: str, choices: Choices) -> Question:
    split = f"all images of {domain}"
    values = {"test_domains": (domain,)} | _drawn(choices, 0.0)
    return Question("domain_shift", domain, values, (Answer(domain, split, ("test_domains", "trained_classes")),))


def _in_the_wild(layout: DatasetLayout, domain: str, choices: Choices) -> Question:
    base = base_classes(layout.class_names, choices.halves or "floor")
    values = {"test_domains": (domain,), "unseen_classes": _others(layout, base)} | _drawn(choices, 0.0)
    split = f"all images of {domain}, among all classes"
    return Question("in_the_wild", domain, values, (Answer(domain, split, ("test_domains", "all_classes")),))


def _unseen_classes(layout: DatasetLayout, choices: Choices) -> Question:
    base = base_classes(layout.class_names, choices.halves or "ceil")
    values = {"unseen_classes": _others(layout, base)} | _drawn(choices, TEST_FRACTION)
    answers = (
        Answer(BASE, "test images of the trained classes, among these", ("test_images", "trained_classes")),
        Answer(NEW, "test images of the unseen classes, among these", ("test_images", "unseen_classes")),
    )
    return Question("unseen_classes", "base_new", values, answers)


def _few_shot(choices: Choices) -> Question:
    num_shots = choices.num_shots or NUM_SHOTS
    values = _drawn(choices, TEST_FRACTION) | {"num_shots": num_shots}
    answer = Answer("all", f"test images, trained on {num_shots} a class", ("test_images", "trained_classes"))
    return Question("few_shot", f"{num_shots}_shots", values, (answer,))


def _dataset_shift(choices: Choices) -> Question:
    if not choices.test_sets:
        raise DatasetInvalid("dataset_shift trains on the first dataset and tests on the others; name at least two.")
    for name, count in Counter((SOURCE, *choices.test_sets)).items():
        if count > 1:
            raise DatasetInvalid(
                f"{name!r} would name two columns of the table; give the test dataset another name.",
                param="test_datasets",
            )
    answers = [
        Answer(name, f"all images of {name}, among its own classes", (TEST_DATASETS, name))
        for name in choices.test_sets
    ]
    values = _drawn(choices, TEST_FRACTION)
    own = Answer(SOURCE, "test images of the training set", ("test_images", "trained_classes"))
    return Question("dataset_shift", SOURCE, values, (own, *answers))


def _targets(layout: DatasetLayout, choices: Choices) -> tuple[str, ...]:
    for target in choices.targets:
        if target not in layout.domains:
            known = ", ".join(layout.domains) or "none: the dataset has no domain folders"
            raise DatasetInvalid(f"The target {target!r} is no domain folder; known: {known}.", param="targets")
    if not layout.domains:
        raise DatasetInvalid(
            "This protocol leaves a domain out; the dataset has no domain folders (domain/class/image).",
            param="dataset",
        )
    return choices.targets or layout.domains


def _others(layout: DatasetLayout, base: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in layout.class_names if name not in base)


def _drawn(choices: Choices, test_fraction: float) -> dict[str, Any]:
    """How many images train and are tested, where that is not all."""
    fraction = test_fraction if choices.test_fraction is None else choices.test_fraction
    values: dict[str, Any] = {"test_fraction": fraction} if fraction else {}
    return values if choices.num_shots is None else values | {"num_shots": choices.num_shots}
