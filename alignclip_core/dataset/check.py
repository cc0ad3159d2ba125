"""Which images of a dataset do not decode, and why. Loads no torch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alignclip_core.dataset.samples import Sample
from alignclip_core.dataset.streaming import read_place
from alignclip_core.errors import ImageRejected
from alignclip_core.images import DEFAULT_LIMITS, ImageLimits, decode_image

CHUNK = 256  # images between two reports of progress


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be trained on."""

    path: str  # Sample.path
    reason: str


def check_images(
    root: Path,
    samples: Sequence[Sample],
    limits: ImageLimits = DEFAULT_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
    digests: dict[str, str] | None = None,
    decode: Callable[[bytes, ImageLimits], object] = decode_image,
) -> list[BadImage]:
    """The samples below `root` that do not decode, in the order given; `on_progress` gets (checked, all).

    What `on_progress` raises ends the check. `digests` is filled with the sha256 of each good image by its path.
    """
    bad: list[BadImage] = []
    # Pillow decodes without the interpreter's lock, so threads use all cores.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
        for start in range(0, len(samples), CHUNK):
            chunk = samples[start : start + CHUNK]
            for sample, found in zip(
                chunk, threads.map(lambda each: _check_image(root, each, limits, decode), chunk), strict=True
            ):
                if isinstance(found, BadImage):
                    bad.append(found)
                elif digests is not None:
                    digests[sample.path] = found
            if on_progress is not None:
                on_progress(start + len(chunk), len(samples))
    return bad


def read_sample(root: Path, sample: Sample, limits: ImageLimits) -> bytes:
    """The bytes of a sample. Raises `ImageRejected` when they are missing or over the size limit."""
    if sample.place is not None:
        return read_place(root, sample.place, limits)
    file = root / sample.path
    try:
        num_bytes = file.stat().st_size
        if num_bytes > limits.max_bytes:
            raise ImageRejected(f"The image has {num_bytes:,} bytes; at most {limits.max_bytes:,} are allowed.")
        return file.read_bytes()
    except OSError as error:
        raise ImageRejected(f"The file cannot be read ({error.strerror}).") from error


def _check_image(
    root: Path, sample: Sample, limits: ImageLimits, decode: Callable[[bytes, ImageLimits], object]
) -> BadImage | str:
    """What is wrong with the image, or the sha256 of its bytes."""
    try:
        content = read_sample(root, sample, limits)
        decode(content, limits)
    except ImageRejected as error:
        return BadImage(sample.path, error.message)
    return hashlib.sha256(content).hexdigest()
