"""What a dataset was and how it was split, in a form that can be kept and compared. Loads no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

from alignclip_core.dataset.samples import Sample
from alignclip_core.dataset.splits import Split

FORMAT_VERSION = 1
COLUMNS = ("source", "path", "class_name", "domain", "part")
UNUSED = "unused"
PARTS = ("train", "validation", "test_images", "test_domains", "unseen_classes", UNUSED)
VALIDATION = "validation_file"


def fingerprint(samples: Iterable[Sample], digests: Mapping[str, str]) -> str:
    """Hex digest of the images and what is said of them; `digests` has the sha256 of each image by its path.

    It is the same wherever the images lie and however they are packed, as long as they keep their own names.
    """
    lines = (
        [sample.domain, sample.class_name, sample.split, PurePosixPath(sample.path).name, digests[sample.path]]
        for sample in samples
    )
    return _digest(lines)


def split_manifest(split: Split) -> dict[str, Any]:
    """Every image with the part that it takes: train, validation, a group of evaluation, or unused."""
    parts = _parts(split)
    rows = [
        [sample.source, sample.path, sample.class_name, sample.domain, part]
        for sample, part in zip(split.samples, parts, strict=True)
    ]
    return {"format_version": FORMAT_VERSION, "sha256": split_sha256(split), "columns": COLUMNS, "images": rows}


def split_sha256(split: Split) -> str:
    """Hex digest of who takes which part, by the images' own names: equal splits have equal digests."""
    lines = (
        [sample.source, sample.domain, sample.class_name, PurePosixPath(sample.path).name, part]
        for sample, part in zip(split.samples, _parts(split), strict=True)
    )
    return _digest(lines)


def count_parts(split: Split) -> dict[str, int]:
    """How many images take each part."""
    counts: dict[str, int] = {}
    for part in _parts(split):
        counts[part] = counts.get(part, 0) + 1
    return dict(sorted(counts.items()))


def part_of_each(split: Split) -> dict[str, str]:
    """The part that each image takes, by its `name_of`."""
    return {name_of(sample): part for sample, part in zip(split.samples, _parts(split), strict=True)}


def name_of(sample: Sample) -> str:
    """What tells an image from those of the other dataset: its path, of a validation set below that one's field."""
    return sample.path if sample.source == "dataset" else f"{VALIDATION}/{sample.path}"


def _parts(split: Split) -> list[str]:
    parts = [UNUSED] * len(split.samples)
    for group in split.groups:
        for index in group.indices:
            # of the trained domains only unseen classes are left: what validates is named below
            parts[index] = "unseen_classes" if group.domains == "trained_domains" else group.domains
    for name, indices in (("train", split.train), ("validation", split.validation)):
        for index in indices:
            parts[index] = name
    return parts


def _digest(lines: Iterable[list[str]]) -> str:
    digest = hashlib.sha256()
    for line in sorted(json.dumps(line) for line in lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()
