"""Which samples train, which validate, which groups are evaluated. The same on every machine. Loads no torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.class_names import some
from alignclip_core.dataset.samples import DatasetLayout, Sample
from alignclip_core.errors import DatasetInvalid

TEST_DATASETS = "test_datasets"  # in place of domains: of other datasets, each a group of its name
OUT_SHARE = 0.2  # of a domain: DomainBed's holdout_fraction
MAX_FEW_SHOT_VALIDATION = 4  # images of a (domain, class), as CoOp's code has it


@dataclass(frozen=True)
class EvaluationGroup:
    """Samples that are evaluated together, and the classes among which the model chooses for them."""

    domains: str  # "trained_domains", "test_domains" or, with a test share, "test_images" of the trained domains
    classes: str  # "trained_classes", "unseen_classes" or "all_classes"; of TEST_DATASETS the dataset's name
    indices: tuple[int, ...]  # into Split.samples
    label_space: tuple[str, ...]  # folder names, sorted
    parts: Mapping[str, frozenset[int]] = field(default_factory=dict)  # shares of them that are told beside


@dataclass(frozen=True)
class Split:
    """Samples, and index tuples into them."""

    samples: tuple[Sample, ...]  # the dataset's, then those of a validation set that was given
    train: tuple[int, ...]
    validation: tuple[int, ...]  # trained classes in trained domains: source validation
    groups: tuple[EvaluationGroup, ...]  # those that have images


def split_dataset(layout: DatasetLayout, config: FinetuneConfig, validation: DatasetLayout | None = None) -> Split:
    """The split of a dataset by its config.

    First each (domain, class) gives the share `test_fraction`. Without a validation set, it then gives the share
    `validation_fraction` of the rest, at least one where it has two, and never its last. With `num_shots`, so many of
    what is left train, at most four validate, and the others take no part. Where the dataset itself says which images
    test or validate, just these do. Raises `DatasetInvalid`.
    """
    _check_domains(layout, config)
    _check_classes(layout.class_names, config)
    samples = layout.samples
    tested = _draw_test(samples, config)
    trainable = [index for index, sample in enumerate(samples) if _is_trained(sample, config) and index not in tested]
    _check_trained_classes(samples, [i for i in trainable if samples[i].split != "validation"], config)
    if validation is None:
        train, held_out = _hold_out(samples, trainable, config)
        if config.num_shots is not None:
            held_out = _draw(samples, held_out, min(config.num_shots, MAX_FEW_SHOT_VALIDATION), config.seed)
    else:
        _check_validation_classes(validation, config)
        samples += tuple(replace(sample, source="validation") for sample in validation.samples)
        train = [index for index in trainable if samples[index].split != "validation"]
        held_out = [i for i in range(len(layout.samples), len(samples)) if _is_trained(samples[i], config)]
        if not held_out:
            raise DatasetInvalid(
                "The validation set has no image of a trained class in a trained domain.", param="validation_file"
            )
    if config.num_shots is not None:
        train = _draw(samples, train, config.num_shots, config.seed)
    groups = _groups(samples, held_out, tested, config, _domain_parts(layout, config))
    return Split(samples, tuple(train), tuple(held_out), groups)


def thin_out(layout: DatasetLayout, num_each: int) -> list[Sample]:
    """At most so many of each (domain, class), the same ones everywhere: a dataset that a small budget can pay."""
    return [layout.samples[index] for index in _draw(layout.samples, range(len(layout.samples)), num_each, "few")]


def _is_trained(sample: Sample, config: FinetuneConfig) -> bool:
    return sample.domain not in config.test_domains and sample.class_name not in config.unseen_classes


def _draw_test(samples: Sequence[Sample], config: FinetuneConfig) -> frozenset[int]:
    """The same for every seed, so that seeds and methods are compared on the same images."""
    candidates = [index for index, sample in enumerate(samples) if sample.domain not in config.test_domains]
    given = [index for index in candidates if samples[index].split == "test"]
    if given:
        return frozenset(given)
    drawn: list[int] = []
    for indices in _strata(samples, candidates).values():
        num_tested = _num_held_out(len(indices), config.test_fraction)
        drawn += sorted(indices, key=lambda index: _lot("test", samples[index]))[:num_tested]
    return frozenset(drawn)


def _draw(samples: Sequence[Sample], candidates: Iterable[int], num_each: int, seed: int | str) -> list[int]:
    """So many of each (domain, class), sorted."""
    drawn: list[int] = []
    for indices in _strata(samples, candidates).values():
        drawn += sorted(indices, key=lambda index: _lot(f"{seed}/shots", samples[index]))[:num_each]
    return sorted(drawn)


def _strata(samples: Sequence[Sample], candidates: Iterable[int]) -> dict[tuple[str, str], list[int]]:
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index in candidates:
        strata[samples[index].domain, samples[index].class_name].append(index)
    return strata


def _hold_out(
    samples: Sequence[Sample], trainable: Iterable[int], config: FinetuneConfig
) -> tuple[list[int], list[int]]:
    trainable = list(trainable)
    given = [index for index in trainable if samples[index].split == "validation"]
    if given:
        return [index for index in trainable if samples[index].split != "validation"], given
    strata = _strata(samples, trainable)
    held_out: set[int] = set()
    for indices in strata.values():
        shuffled = sorted(indices, key=lambda index: _lot(config.seed, samples[index]))
        held_out.update(shuffled[: _num_held_out(len(indices), config.validation_fraction)])
    everything = sorted(index for indices in strata.values() for index in indices)
    return [index for index in everything if index not in held_out], sorted(held_out)


def _num_held_out(num_samples: int, fraction: float) -> int:
    if fraction == 0 or num_samples < 2:
        return 0
    return min(max(int(num_samples * fraction + 0.5), 1), num_samples - 1)


def _lot(seed: int | str, sample: Sample) -> bytes:
    """A draw that depends on the seed and the sample's name alone, not on its folder or on the other samples."""
    name = f"{seed}/{sample.domain}/{sample.class_name}/{PurePosixPath(sample.path).name}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _domain_parts(layout: DatasetLayout, config: FinetuneConfig) -> dict[str, frozenset[int]]:
    """DomainBed's two shares of each test domain, by its own draw: a paper's figure may be on either alone."""
    parts: dict[str, set[int]] = {"in_split": set(), "out_split": set()}
    for number, domain in enumerate(layout.domains):
        if domain not in config.test_domains:
            continue
        indices = [index for index, sample in enumerate(layout.samples) if sample.domain == domain]
        seed = int(hashlib.md5(str((config.seed, number)).encode(), usedforsecurity=False).hexdigest(), 16) % 2**31
        order = list(range(len(indices)))
        np.random.RandomState(seed).shuffle(order)
        num_out = int(len(indices) * OUT_SHARE)
        parts["out_split"].update(indices[place] for place in order[:num_out])
        parts["in_split"].update(indices[place] for place in order[num_out:])
    return {name: frozenset(indices) for name, indices in parts.items()}


def _groups(
    samples: Sequence[Sample],
    held_out: Iterable[int],
    tested: frozenset[int],
    config: FinetuneConfig,
    parts: Mapping[str, frozenset[int]],
) -> tuple[EvaluationGroup, ...]:
    """Everything that does not train is evaluated somewhere, but for what few shots leave over.

    Where a test share is held out, unseen classes of the trained domains are evaluated on it alone.
    """
    validating = set(held_out)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        classes = "unseen_classes" if sample.class_name in config.unseen_classes else "trained_classes"
        if sample.domain in config.test_domains:
            members["test_domains", classes].append(index)
        elif index in tested:
            members["test_images", classes].append(index)
        elif index in validating or (classes == "unseen_classes" and not tested):
            members["trained_domains", classes].append(index)
    label_spaces = {"trained_classes": config.trained_classes, "unseen_classes": config.unseen_classes}
    groups: list[EvaluationGroup] = []
    for domains in ("trained_domains", "test_domains", "test_images"):
        own_parts = parts if domains == "test_domains" else {}
        for classes, label_space in label_spaces.items():
            # Among fewer than two classes there is nothing to choose: such images count in all_classes alone.
            if members[domains, classes] and len(label_space) > 1:
                space = tuple(sorted(label_space))
                groups.append(EvaluationGroup(domains, classes, tuple(members[domains, classes]), space, own_parts))
        union = sorted(members[domains, "trained_classes"] + members[domains, "unseen_classes"])
        if union and config.unseen_classes:
            space = tuple(sorted(config.class_names))
            groups.append(EvaluationGroup(domains, "all_classes", tuple(union), space, own_parts))
    return tuple(groups)


def _check_domains(layout: DatasetLayout, config: FinetuneConfig) -> None:
    for domain in config.test_domains:
        if not layout.domains:
            raise DatasetInvalid(
                f"test_domains names {domain!r}, but the dataset has no domain folders (domain/class/image).",
                param="test_domains",
            )
        if domain not in layout.domains:
            raise DatasetInvalid(
                f"test_domains names {domain!r}, which is no domain folder; known: {', '.join(layout.domains)}.",
                param="test_domains",
            )
    if layout.domains and set(config.test_domains) >= set(layout.domains):
        raise DatasetInvalid(
            f"test_domains leaves no domain to train on; leave out at least one of {', '.join(layout.domains)}.",
            param="test_domains",
        )


def _check_classes(folders: Sequence[str], config: FinetuneConfig) -> None:
    missing = sorted(set(config.class_names) - set(folders))
    extra = sorted(set(folders) - set(config.class_names))
    if missing:
        raise DatasetInvalid(
            f"The dataset has no images of class {missing[0]!r}; its class folders: {some(folders)}.",
            param="class_names",
        )
    if extra:
        raise DatasetInvalid(f"Class folder {extra[0]!r} is missing in class_names.", param="class_names")


def _check_trained_classes(samples: Sequence[Sample], trainable: Iterable[int], config: FinetuneConfig) -> None:
    trained = {samples[index].class_name for index in trainable}
    for name in config.trained_classes:
        if name not in trained and not config.test_domains:
            raise DatasetInvalid(
                f"Class {name!r} has no image that trains: the dataset gives all of them to validation and test.",
                param="training_file",
            )
        if name not in trained:
            raise DatasetInvalid(
                f"Class {name!r} has no image outside test_domains ({', '.join(config.test_domains)}); add images of "
                "it in a trained domain or name it in unseen_classes.",
                param="test_domains",
            )


def _check_validation_classes(validation: DatasetLayout, config: FinetuneConfig) -> None:
    for name in validation.class_names:
        if name not in config.class_names:
            raise DatasetInvalid(
                f"The validation set has a class folder {name!r} that the training set has not; known: "
                f"{some(tuple(config.class_names))}.",
                param="validation_file",
            )
