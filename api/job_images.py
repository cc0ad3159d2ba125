"""One image of a job's dataset, small: so that a person sees what a model took for what."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from pydantic import StringConstraints

from alignclip_core.dataset.image_table import iterate_row_group
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Sample
from alignclip_core.dataset.streaming import decode_text
from alignclip_core.errors import DatasetInvalid, ImageRejected
from alignclip_core.run_dir import TEST_PREFIX
from alignclip_store import jobs
from alignclip_store.database import reading
from alignclip_store.dataset_files import StoredFiles
from alignclip_store.datasets import Dataset, open_dataset, open_files
from alignclip_store.errors import ArtifactMissing, DatasetRejected, FileNotFound
from api.errors import ImageNotFound
from api.resources import Resources

THUMBNAIL_PIXELS = 320  # of the longer side: twice what the page shows, for sharp screens
QUALITY = 85
MAX_READ_BYTES = 64 << 20  # of images that are read together

Source = Annotated[str, StringConstraints(max_length=80, pattern="^(dataset|validation|test-.+)$")]
"""As `Sample.source`: which of the job's datasets holds the image."""


def make_thumbnail(resources: Resources, owner: str, job_id: str, path: str, source: Source) -> bytes:
    """The image as a small JPEG.

    Nothing but the images of the job's own dataset is read, as its layout lists them. A listing may take seconds, so
    the first image brings the job's other mistakes, which a page shows beside it. Raises `JobNotFound`,
    `ImageNotFound`, and `ImageRejected` for an image that cannot be decoded under the limits.
    """
    dataset, mistakes = _open(resources, owner, job_id, source)
    made = resources.thumbnails.get((job_id, source, path))
    if made is not None:
        return made
    try:
        with (
            open_files(dataset, resources.artifacts, resources.settings) as files,
            TemporaryDirectory(dir=resources.scratch) as folder,
        ):
            samples = _find(files, dataset, {path, *mistakes})
            if path not in samples:
                raise ImageNotFound(f"The dataset of job {job_id!r} has no image {path[:200]!r}.", param="path")
            chosen = _within_budget(files, [samples.pop(path), *samples.values()], resources.decoders.limits.max_bytes)
            fetched = files.fetch(Path(folder) / "images", only={each.path for each in chosen if each.place is None})
            made = _thumbnail(resources, files, chosen[0], fetched)
            resources.thumbnails.put((job_id, source, path), made)
            for other in chosen[1:]:
                with suppress(ImageRejected):  # told when it is asked for itself
                    thumbnail = _thumbnail(resources, files, other, fetched)
                    resources.thumbnails.put((job_id, source, other.path), thumbnail)
    except (DatasetRejected, DatasetInvalid, ArtifactMissing) as error:
        raise _away(dataset.reference, error.message) from error
    except OSError as error:
        raise _away(dataset.reference, f"{error.strerror}.") from error
    return made


def _open(resources: Resources, owner: str, job_id: str, source: Source) -> tuple[Dataset, set[str]]:
    """Where the job's images lie, when that is where this process can look at once, and those that are its mistakes."""
    with reading(resources.engine) as session:
        job = jobs.get_job(session, owner, job_id)
        references = {"dataset": job.training_file, "validation": job.validation_file}
        references |= {f"{TEST_PREFIX}{test['name']}": test["dataset"] for test in job.test_datasets}
        reference = references.get(source)
        if reference is None:
            known = ", ".join(name for name, each in references.items() if each)
            raise ImageNotFound(f"Job {job_id!r} has no such dataset; source may be {known}.", param="source")
        try:
            dataset = open_dataset(session, owner, reference, resources.settings)
        except (DatasetRejected, FileNotFound) as error:
            raise _away(reference, error.message) from error
    if dataset.url is not None:
        raise _away(reference, "it lies elsewhere, and pictures are not fetched from there to be shown.")
    return dataset, _mistakes(job.result, source)


def _away(reference: str, reason: str) -> ImageNotFound:
    message = f"The pictures of {reference[:200]!r} are not at hand: {reason}"
    return ImageNotFound(message, code="image_not_at_hand")


def _mistakes(result: dict[str, Any] | None, source: Source) -> set[str]:
    """Paths of the images in this source that the job's models were wrong about, as far as they are kept."""
    groups = [
        group
        for model in ("tuned", "zero_shot")
        for classes in ((result or {}).get(model) or {}).values()
        for group in classes.values()
    ]
    kept = [mistake for group in groups for mistake in group.get("mistakes") or []]
    return {mistake["path"] for mistake in kept if mistake.get("source", "dataset") == source}


def _find(files: StoredFiles, dataset: Dataset, paths: Set[str]) -> dict[str, Sample]:
    layout = read_dataset(files, manifest=dataset.manifest, min_classes=1)
    return {sample.path: sample for sample in layout.samples if sample.path in paths}


def _within_budget(files: StoredFiles, samples: Sequence[Sample], max_image_bytes: int) -> list[Sample]:
    """The first one, which must not be too large, and as many others as may be read at once."""
    first, *others = samples
    if first.place is None and files.sizes[first.path] > max_image_bytes:
        size = files.sizes[first.path]
        raise ImageRejected(f"{first.path} has {size:,} bytes; at most {max_image_bytes:,} are allowed.")
    chosen, num_bytes = [first], 0
    for other in others:
        size = other.place.num_bytes if other.place else files.sizes[other.path]
        if size <= max_image_bytes and num_bytes + size <= MAX_READ_BYTES:
            chosen.append(other)
            num_bytes += size
    return chosen


def _thumbnail(resources: Resources, files: StoredFiles, sample: Sample, fetched: Path) -> bytes:
    image = resources.decoders.image(_read(files, sample, fetched))
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    thumbnail = BytesIO()
    image.save(thumbnail, "JPEG", quality=QUALITY)
    return thumbnail.getvalue()


def _read(files: StoredFiles, sample: Sample, fetched: Path) -> bytes:
    place = sample.place
    if place is None:
        return (fetched / sample.path).read_bytes()
    with files.open(place.location) as opened:
        if place.is_base64:
            opened.seek(place.offset)
            return decode_text(opened.read(place.num_bytes))
        return next(islice(iterate_row_group(opened, place.location, place.row_group), place.row, None))
