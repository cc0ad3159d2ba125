"""The last look at a dataset before a trainer starts: every pixel, then the classes and the split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.check import BadImage, check_images
from alignclip_core.dataset.fingerprint import fingerprint
from alignclip_core.dataset.layout import DatasetLayout
from alignclip_core.dataset.listing import leave_out, read_staged
from alignclip_core.dataset.splits import Split, split_dataset
from alignclip_core.decoders import Decoders
from alignclip_core.errors import ImageRejected
from alignclip_core.images import ImageLimits
from worker.current_run import CurrentRun

NUM_NAMED_IMAGES = 20  # in a message; an event's data lists more
NUM_LISTED_IMAGES = 1000
PROGRESS_SECONDS = 10.0  # between two events about a long check


@dataclass(frozen=True, kw_only=True)
class CheckedDataset:
    """The images of a run, all of them good."""

    split: Split  # that the trainer will make of the staged folders
    fingerprint: str
    validation_fingerprint: str | None  # of a validation set that was given
    test_fingerprints: Mapping[str, str]  # of the test datasets, by their names


def check_dataset(run: CurrentRun, config: FinetuneConfig, test_datasets: Sequence[str] = ()) -> CheckedDataset:
    """What lies in the run directory, the test datasets of these names as well, decoded once to the last image.

    Raises `ImageRejected` for images that do not decode, unless the config leaves them out, and `DatasetInvalid` when
    what is left does not fit the config.
    """
    settings, run_dir = run.settings, run.run_dir
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    with Decoders(limits) as decoders:
        check = partial(_check_folder, run, config, decoders)
        layout, digest = check(run_dir.dataset, param="training_file")
        validation, validation_digest = None, None
        if run_dir.has_validation:
            validation, validation_digest = check(run_dir.validation, param="validation_file")
        split = split_dataset(layout, config, validation)
        test_digests: dict[str, str] = {}
        for place, name in enumerate(test_datasets):
            _, test_digests[name] = check(run_dir.test_dataset(name), param=f"test_datasets.{place}")
    return CheckedDataset(
        split=split, fingerprint=digest, validation_fingerprint=validation_digest, test_fingerprints=test_digests
    )


def _check_folder(
    run: CurrentRun, config: FinetuneConfig, decoders: Decoders, folder: Path, *, param: str
) -> tuple[DatasetLayout, str]:
    """The layout of the good images, and their fingerprint."""
    min_classes = 1 if param == "validation_file" else 2
    layout = read_staged(folder, min_classes=min_classes)
    digests: dict[str, str] = {}
    bad = check_images(
        folder,
        layout.samples,
        decoders.limits,
        Progress(run),
        digests,
        decode=lambda content, _: decoders.pixels(content),
    )
    if not bad:
        return layout, fingerprint(layout.samples, digests)
    data = {"num_bad_images": len(bad), "files": [asdict(image) for image in bad[:NUM_LISTED_IMAGES]]}
    if not config.skip_bad_images:
        run.record_event("error", f"{len(bad)} of {len(layout.samples)} images cannot be used.", data)
        raise ImageRejected(
            f"{_count(bad, layout)} cannot be used: {_named(bad)}. Repair or remove them, or set skip_bad_images.",
            param=param,
        )
    leave_out(folder, {image.path for image in bad})
    run.record_event("warn", f"{_count(bad, layout)} cannot be used and are left out: {_named(bad)}.", data)
    layout = read_staged(folder, min_classes=min_classes)
    return layout, fingerprint(layout.samples, digests)


class Progress:
    """Tells the job's events how far a long check is, and ends it when the run should stop."""

    def __init__(self, run: CurrentRun) -> None:
        self._run = run
        self._told_at = time.monotonic()

    def __call__(self, num_checked: int, num_images: int) -> None:
        self._run.raise_if_stopped()
        if time.monotonic() - self._told_at > PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._run.record_event("info", f"Checked {num_checked:,} of {num_images:,} images.")


def _count(bad: Sequence[BadImage], layout: DatasetLayout) -> str:
    return f"{len(bad)} of {len(layout.samples)} images"


def _named(bad: Sequence[BadImage]) -> str:
    named = "; ".join(f"{image.path} ({image.reason.rstrip('.')})" for image in bad[:NUM_NAMED_IMAGES])
    return named + (f"; and {len(bad) - NUM_NAMED_IMAGES} more" if len(bad) > NUM_NAMED_IMAGES else "")
