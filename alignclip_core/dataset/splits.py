"""Which samples train, which validate, which groups are evaluated. The same on every machine. Loads no torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.layout import DatasetLayout, Sample
from alignclip_core.errors import DatasetInvalid


@dataclass(frozen=True)
class EvaluationGroup:
    """Samples that are evaluated together, and the classes among which the model chooses for them."""

    domains: str  # "trained_domains" or "test_domains"
    classes: str  # "trained_classes", "unseen_classes" or "all_classes"
    indices: tuple[int, ...]  # into Split.samples
    label_space: tuple[str, ...]  # folder names, sorted


@dataclass(frozen=True)
class Split:
    """Samples, and index tuples into them."""

    samples: tuple[Sample, ...]  # the dataset's, then those of a validation set that was given
    train: tuple[int, ...]
    validation: tuple[int, ...]  # trained classes in trained domains: source validation
    groups: tuple[EvaluationGroup, ...]  # those that have images


def split_dataset(layout: DatasetLayout, config: FinetuneConfig, validation: DatasetLayout | None = None) -> Split:
    """The split of a dataset by its config.

    Without a validation set, each (domain, class) gives the share `validation_fraction` of its images, at least one
    where it has two, and never its last. Raises `DatasetInvalid`.
    """
    _check_domains(layout, config)
    _check_classes(layout.class_names, config)
    samples = layout.samples
    trainable = [index for index, sample in enumerate(samples) if _is_trained(sample, config)]
    _check_trained_classes(samples, trainable, config)
    if validation is None:
        train, held_out = _hold_out(samples, trainable, config)
    else:
        _check_validation_classes(validation, config)
        samples += tuple(replace(sample, source="validation") for sample in validation.samples)
        train = trainable
        held_out = [i for i in range(len(layout.samples), len(samples)) if _is_trained(samples[i], config)]
        if not held_out:
            raise DatasetInvalid(
                "The validation set has no image of a trained class in a trained domain.", param="validation_file"
            )
    return Split(samples, tuple(train), tuple(held_out), _groups(samples, train, config))


def resolve_class_names(layout: DatasetLayout, given: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Folder name -> display name of every class. Raises `DatasetInvalid` naming what does not fit.

    A list must hold one name for each folder, in any order, alike but for case, "_" and "-"; a map may name other
    words, and folders that it leaves out keep their own name.
    """
    if given is None:
        names = {folder: folder for folder in layout.class_names}
    elif isinstance(given, Mapping):
        names = _names_from_map(layout.class_names, given)
    else:
        names = _names_from_list(layout.class_names, given)
    _check_display_names(names)
    return names


def _is_trained(sample: Sample, config: FinetuneConfig) -> bool:
    return sample.domain not in config.test_domains and sample.class_name not in config.unseen_classes


def _hold_out(
    samples: Sequence[Sample], trainable: Iterable[int], config: FinetuneConfig
) -> tuple[list[int], list[int]]:
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index in trainable:
        strata[samples[index].domain, samples[index].class_name].append(index)
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


def _lot(seed: int, sample: Sample) -> bytes:
    """A draw that depends on the seed and the sample's name alone, not on its folder or on the other samples."""
    name = f"{seed}/{sample.domain}/{sample.class_name}/{PurePosixPath(sample.path).name}"
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _groups(samples: Sequence[Sample], train: Iterable[int], config: FinetuneConfig) -> tuple[EvaluationGroup, ...]:
    """Everything that does not train is evaluated somewhere."""
    trained = set(train)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        domains = "test_domains" if sample.domain in config.test_domains else "trained_domains"
        classes = "unseen_classes" if sample.class_name in config.unseen_classes else "trained_classes"
        if index not in trained:
            members[domains, classes].append(index)
    label_spaces = {"trained_classes": config.trained_classes, "unseen_classes": config.unseen_classes}
    groups: list[EvaluationGroup] = []
    for domains in ("trained_domains", "test_domains"):
        for classes, label_space in label_spaces.items():
            # Among fewer than two classes there is nothing to choose: such images count in all_classes alone.
            if members[domains, classes] and len(label_space) > 1:
                space = tuple(sorted(label_space))
                groups.append(EvaluationGroup(domains, classes, tuple(members[domains, classes]), space))
        union = sorted(members[domains, "trained_classes"] + members[domains, "unseen_classes"])
        if union and config.unseen_classes:
            groups.append(EvaluationGroup(domains, "all_classes", tuple(union), tuple(sorted(config.class_names))))
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
            f"The dataset has no images of class {missing[0]!r}; its class folders: {_some(folders)}.",
            param="class_names",
        )
    if extra:
        raise DatasetInvalid(f"Class folder {extra[0]!r} is missing in class_names.", param="class_names")


def _check_trained_classes(samples: Sequence[Sample], trainable: Iterable[int], config: FinetuneConfig) -> None:
    trained = {samples[index].class_name for index in trainable}
    for name in config.trained_classes:
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
                f"{_some(tuple(config.class_names))}.",
                param="validation_file",
            )


def _names_from_map(folders: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    for folder in given:
        if folder not in folders:
            raise DatasetInvalid(
                f"class_names names a folder {folder!r} that the dataset has not; its class folders: {_some(folders)}.",
                param="class_names",
            )
    return {folder: given.get(folder, folder) for folder in folders}


def _names_from_list(folders: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    unmatched = {_spoken(folder): folder for folder in folders}
    names: dict[str, str] = {}
    for name in given:
        folder = unmatched.pop(_spoken(name), None) if isinstance(name, str) else None
        if folder is None:
            raise DatasetInvalid(
                f"class_names holds {name!r}, which fits no class folder (left: {_some(tuple(unmatched.values()))}); "
                "to use other words, send a map from folder name to name.",
                param="class_names",
            )
        names[folder] = name
    if unmatched:
        raise DatasetInvalid(
            f"class_names has no name for class folder {next(iter(unmatched.values()))!r}.", param="class_names"
        )
    return dict(sorted(names.items()))


def _check_display_names(names: Mapping[str, str]) -> None:
    folders: dict[str, str] = {}
    for folder, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DatasetInvalid(
                f"The name of class {folder!r} is {name!r}; it must be a word or more.", param="class_names"
            )
        other = folders.setdefault(_spoken(name), folder)
        if other != folder:
            raise DatasetInvalid(
                f"Classes {other!r} and {folder!r} have the same name {name!r}, so the text cannot tell them apart; "
                "give other names by a map from folder name to name.",
                param="class_names",
            )


def _spoken(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
