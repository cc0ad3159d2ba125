"""What a dataset is and what is wrong with it, before anything is trained. Loads no torch.

What the texts say of it (names alike, labels in doubt) is `alignclip_core/dataset_report.py`.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.check import BadImage
from alignclip_core.dataset.duplicates import exact_duplicates, near_duplicates
from alignclip_core.dataset.findings import Finding
from alignclip_core.dataset.fingerprint import PARTS, UNUSED, count_parts, name_of, part_of_each
from alignclip_core.dataset.looks import ImageLook
from alignclip_core.dataset.samples import DatasetLayout
from alignclip_core.dataset.splits import Split

FEW_IMAGES = 5  # of a class: can hardly be trained and measured
IMBALANCE = 20  # times as many images in the largest class as in the smallest
SMALL_SIDE = 32  # pixels
NUM_NAMED_CLASSES = 5


def count_images(layout: DatasetLayout, split: Split, class_names: Mapping[str, str]) -> dict[str, Any]:
    """How many images each class, domain and part of the split has."""
    classes = Counter(sample.class_name for sample in layout.samples)
    domains = Counter(sample.domain for sample in layout.samples)
    return {
        "num_images": len(layout.samples),
        "classes": [
            {"name": name, "display_name": class_names[name], "num_images": classes[name]}
            for name in layout.class_names
        ],
        "domains": [{"name": name, "num_images": number} for name, number in sorted(domains.items())],
        "splits": [{"name": name, "num_images": number} for name, number in count_parts(split).items()],
    }


def sizes_of(looks: Sequence[ImageLook]) -> dict[str, Any]:
    """Pixels and bytes of the images that were looked at; {} without any."""
    if not looks:
        return {}
    sides = {"width": [look.width for look in looks], "height": [look.height for look in looks]}
    return {
        **{name: {"min": min(of), "median": statistics.median(of), "max": max(of)} for name, of in sides.items()},
        "mean_bytes": sum(look.num_bytes for look in looks) / len(looks),
    }


def find_faults(
    layout: DatasetLayout,
    split: Split,
    config: FinetuneConfig,
    looks: Sequence[ImageLook],
    bad: Sequence[BadImage],
) -> list[Finding]:
    """Everything that files, folders and pixels show; fatal ones first."""
    parts = part_of_each(split)
    return [
        *_unreadable(bad, config),
        *_exact(looks, split, parts),
        *_near(looks, parts),
        *_class_sizes(layout, config),
        *_absent_in_domains(layout, config),
        *_small_images(looks),
        *_no_images(layout),
    ]


def _unreadable(bad: Sequence[BadImage], config: FinetuneConfig) -> Iterable[Finding]:
    if bad:
        reasons = "; ".join(f"{image.path} ({image.reason.rstrip('.')})" for image in bad[:NUM_NAMED_CLASSES])
        yield Finding(
            code="image_unreadable",
            severity="warning" if config.skip_bad_images else "fatal",
            message=f"{_images(len(bad))} cannot be used: {reasons}{_more(len(bad))}.",
            hint="Repair or remove them, or set skip_bad_images to leave them out.",
            paths=[image.path for image in bad],
        )


def _exact(looks: Sequence[ImageLook], split: Split, parts: Mapping[str, str]) -> Iterable[Finding]:
    class_of = {name_of(sample): sample.class_name for sample in split.samples}
    groups = exact_duplicates(looks)
    contradicting = [group for group in groups if len({class_of[path] for path in group}) > 1]
    if contradicting:
        yield Finding(
            code="duplicate_with_other_label",
            severity="warning",
            message=f"{_times(len(contradicting), 'image')} with the same bytes in several classes.",
            hint="One picture cannot be two things: keep it in the class that it shows.",
            paths=[path for group in contradicting for path in group],
        )
    yield from _leaks(groups, parts, "duplicate_across_splits", "the same bytes")
    within = [group for group in groups if group not in contradicting and len(_used_parts(group, parts)) < 2]
    if within:
        yield Finding(
            code="duplicate",
            severity="warning",
            message=f"{_times(len(within), 'image')} more than once, byte for byte.",
            hint="Each copy counts as an image of its own; remove all but one.",
            paths=[path for group in within for path in group],
        )


def _near(looks: Sequence[ImageLook], parts: Mapping[str, str]) -> Iterable[Finding]:
    pairs = near_duplicates(looks)
    yield from _leaks(pairs, parts, "near_duplicate_across_splits", "almost the same picture")
    within = [pair for pair in pairs if len(_used_parts(pair, parts)) < 2]
    if within:
        yield Finding(
            code="near_duplicate",
            severity="warning",
            message=f"{_times(len(within), 'pair')} of images that look the same: scaled, shifted or saved again.",
            hint="They add little; keep one of each pair.",
            paths=[path for pair in within for path in pair],
        )


def _leaks(groups: Sequence[Sequence[str]], parts: Mapping[str, str], code: str, what: str) -> Iterable[Finding]:
    """Groups with images in several parts of the split, of which each should be new to the others."""
    leaking = [group for group in groups if len(_used_parts(group, parts)) > 1]
    if leaking:
        between = Counter(" and ".join(_used_parts(group, parts)) for group in leaking)
        shown = ", ".join(f"{number} in {names}" for names, number in sorted(between.items()))
        yield Finding(
            code=code,
            severity="warning",
            message=f"{_times(len(leaking), 'image')} with {what} in several parts of the split: {shown}.",
            hint="What is measured there is too good, or chosen by images that are to test it; remove the copies.",
            paths=[path for group in leaking for path in group],
        )


def _used_parts(group: Sequence[str], parts: Mapping[str, str]) -> list[str]:
    """The parts that images of the group take, in their order; those that take none do no harm."""
    return sorted({parts[path] for path in group} - {UNUSED}, key=PARTS.index)


def _class_sizes(layout: DatasetLayout, config: FinetuneConfig) -> Iterable[Finding]:
    counts = Counter(sample.class_name for sample in layout.samples)
    trained = {name: counts[name] for name in config.trained_classes}
    few = sorted(name for name, number in trained.items() if number < FEW_IMAGES)
    if few:
        yield Finding(
            code="class_small",
            severity="warning",
            message=f"{_times(len(few), 'class')} with fewer than {FEW_IMAGES} images: {_listed(few, trained)}.",
            hint="Add images, or name them in unseen_classes: they are then recognised by their name alone.",
            paths=[sample.path for sample in layout.samples if sample.class_name in few],
        )
    largest, smallest = (choose(trained, key=lambda name: trained[name]) for choose in (max, min))
    if trained[largest] >= IMBALANCE * trained[smallest]:
        yield Finding(
            code="imbalance",
            severity="warning",
            message=f"Class {largest!r} has {trained[largest]} images, class {smallest!r} {trained[smallest]}.",
            hint="Training sees the large class more often; take fewer of it, or more of the small ones.",
        )


def _absent_in_domains(layout: DatasetLayout, config: FinetuneConfig) -> Iterable[Finding]:
    present: dict[str, set[str]] = defaultdict(set)
    for sample in layout.samples:
        present[sample.domain].add(sample.class_name)
    absent = [
        f"{name} in {domain}"
        for domain in layout.domains
        for name in config.trained_classes
        if name not in present[domain]
    ]
    if absent:
        yield Finding(
            code="class_absent_in_domain",
            severity="warning",
            message=f"Not every domain has every class: no {', no '.join(absent[:NUM_NAMED_CLASSES])}"
            f"{_more(len(absent))}.",
            hint="A class of one domain alone may be learned by the domain's style; add images if there are any.",
        )


def _small_images(looks: Sequence[ImageLook]) -> Iterable[Finding]:
    small = [look.path for look in looks if min(look.width, look.height) < SMALL_SIDE]
    if small:
        yield Finding(
            code="image_small",
            severity="warning",
            message=f"{_images(len(small))} with a side of fewer than {SMALL_SIDE} pixels.",
            hint="They are scaled up and show little; take the originals if there are any.",
            paths=small,
        )


def _no_images(layout: DatasetLayout) -> Iterable[Finding]:
    if layout.ignored:
        yield Finding(
            code="file_ignored",
            severity="warning",
            message=f"{_times(len(layout.ignored), 'file')} that no image format's suffix names; they are left out.",
            hint="Nothing to do, unless there are images among them: .jpg, .png, .webp, .gif, .bmp are read.",
            paths=list(layout.ignored),
        )


def _images(number: int) -> str:
    return _times(number, "image")


def _times(number: int, word: str) -> str:
    plural = {"class": "classes"}.get(word, f"{word}s")
    return f"{number} {word if number == 1 else plural}"


def _listed(names: Sequence[str], counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({counts[name]})" for name in names[:NUM_NAMED_CLASSES]) + _more(len(names))


def _more(number: int) -> str:
    return f" and {number - NUM_NAMED_CLASSES} more" if number > NUM_NAMED_CLASSES else ""
