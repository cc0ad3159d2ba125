"""Images that are there twice: byte for byte, or scaled or saved again. Loads no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from alignclip_core.dataset.looks import ImageLook

HASH_BITS = 64
NUM_BANDS = 7  # of hashes that differ in six bits or fewer, one band at least is equal
MAX_BITS = NUM_BANDS - 1
MIN_CORRELATION = 0.95  # of the thumbnails of near duplicates: a small thing on white is not like another one
MAX_CROWD = 2000  # images that share a band; more say nothing about each other, such as empty ones


def exact_duplicates(looks: Sequence[ImageLook]) -> list[tuple[str, ...]]:
    """Paths of images with equal bytes, group by group."""
    groups: dict[str, list[str]] = defaultdict(list)
    for look in looks:
        groups[look.sha256].append(look.path)
    return [tuple(paths) for paths in groups.values() if len(paths) > 1]


def near_duplicates(looks: Sequence[ImageLook]) -> list[tuple[str, str]]:
    """Pairs of images that look alike but differ in their bytes.

    Their gradient hashes differ in at most six bits and their thumbnails correlate by 0.95 or more: that holds for the
    same picture at another size or quality, and hardly for two pictures of the same thing.
    """
    hashes = np.array([look.gradient_hash for look in looks], dtype=np.uint64)
    pairs = {pair for crowd in _crowds(hashes) for pair in _close(hashes, crowd)}
    return [
        (looks[one].path, looks[other].path)
        for one, other in sorted(pairs)
        if looks[one].sha256 != looks[other].sha256 and _correlation(looks[one], looks[other]) >= MIN_CORRELATION
    ]


def _crowds(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of images that share one band of their hash."""
    edges = [HASH_BITS * band // NUM_BANDS for band in range(NUM_BANDS + 1)]
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(band, kind="stable")
        for crowd in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            if 1 < len(crowd) <= MAX_CROWD:
                yield crowd


def _close(hashes: np.ndarray, crowd: np.ndarray) -> Iterator[tuple[int, int]]:
    own = hashes[crowd]
    for place in range(len(crowd) - 1):
        bits = np.bitwise_count(own[place + 1 :] ^ own[place])
        for other in np.flatnonzero(bits <= MAX_BITS):
            one, two = sorted((int(crowd[place]), int(crowd[place + 1 + other])))
            yield one, two


def _correlation(one: ImageLook, other: ImageLook) -> float:
    """Of all pixels of the two thumbnails; 0 where one of them is a single colour."""
    first, second = (look.thumbnail.astype(np.float64).ravel() for look in (one, other))
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0
