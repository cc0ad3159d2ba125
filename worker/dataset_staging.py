"""A dataset reference -> the files and the list from which the trainer reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from alignclip_core.dataset.files import DatasetFiles
from alignclip_core.dataset.listing import Listing, listing_file, save_listing
from alignclip_core.dataset.reading import is_plain, read_dataset
from alignclip_core.dataset.samples import DatasetLayout, Place, Sample
from alignclip_store.dataset_files import StoredFiles
from alignclip_store.datasets import Dataset, open_files
from alignclip_store.location import Location
from worker.current_run import CurrentRun


def stage_dataset(
    run: CurrentRun, dataset: Dataset, target: Path, *, min_classes: int, on_file: Callable[[], None]
) -> bool:
    """Put the dataset at `target`; whether it is streamed: then nothing but a list of its images is there.

    It is streamed when it is larger than `dataset_cache_bytes` and the trainer can read its images itself, with no
    credentials of ours: files below a dataset root, and URLs that are public or can be presigned.
    """
    listing_file(target).unlink(missing_ok=True)  # an earlier run's, where the folder was kept
    with open_files(dataset, run.artifacts, run.settings) as files:
        layout = read_dataset(files, manifest=dataset.manifest, min_classes=min_classes, url=dataset.url)
        limit = run.settings.dataset_cache_bytes
        if limit is not None and _num_bytes(files, layout) > limit:
            streamed = _streamed(files, layout)
            if streamed is not None:
                save_listing(listing_file(target), Listing(streamed, limit))
                return True
        if is_plain(layout, files):
            files.fetch(target, on_file=on_file)
            return False
        files.fetch(target, only={_file_of(sample) for sample in layout.samples}, on_file=on_file)
        save_listing(listing_file(target), Listing(layout, run.settings.max_dataset_bytes))
        return False


def _file_of(sample: Sample) -> str:
    return sample.path if sample.place is None else sample.place.location


def _num_bytes(files: DatasetFiles, layout: DatasetLayout) -> int:
    return sum(files.sizes[path] for path in {_file_of(sample) for sample in layout.samples})


def _streamed(files: StoredFiles, layout: DatasetLayout) -> DatasetLayout | None:
    """The layout with a place for every image that the trainer can read; None where one has no such place."""
    samples = []
    for sample in layout.samples:
        found = files.locate(_file_of(sample))
        if found is None:
            return None
        samples.append(replace(sample, place=_place_at(found, sample.place)))
    return replace(layout, samples=tuple(samples))


def _place_at(found: Location, place: Place | None) -> Place:
    """Where an image lies when its file, or the file that holds it at `place`, was found."""
    if place is None:
        return Place(found.where, found.offset, found.num_bytes)
    if place.is_base64:
        return replace(place, location=found.where, offset=found.offset + place.offset)
    return replace(place, location=found.where, num_bytes=found.num_bytes)
