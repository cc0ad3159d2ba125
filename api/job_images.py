"""One image of a job's dataset, small: so that a person sees what a model took for what."""

from __future__ import annotations

from io import BytesIO
from itertools import islice
from typing import Annotated

from pydantic import StringConstraints

from alignclip_core.dataset.image_table import iterate_row_group
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Sample
from alignclip_core.dataset.streaming import decode_text
from alignclip_core.errors import DatasetInvalid, ImageRejected
from alignclip_core.images import decode_image
from alignclip_core.run_dir import TEST_PREFIX
from alignclip_store import jobs
from alignclip_store.database import reading
from alignclip_store.dataset_files import StoredFiles
from alignclip_store.datasets import Dataset, open_dataset, open_files
from alignclip_store.errors import ArtifactMissing, DatasetRejected, FileNotFound
from api.errors import ImageNotFound
from api.image_features import limits_of
from api.resources import Resources

THUMBNAIL_PIXELS = 320  # of the longer side: twice what the page shows, for sharp screens
QUALITY = 85

Source = Annotated[str, StringConstraints(max_length=80, pattern="^(dataset|validation|test-.+)$")]
"""As `Sample.source`: which of the job's datasets holds the image."""


def make_thumbnail(resources: Resources, owner: str, job_id: str, path: str, source: Source) -> bytes:
    """The image as a small JPEG.

    Nothing but the images of the job's own dataset is read, as its layout lists them. Raises `JobNotFound`,
    `ImageNotFound`, and `ImageRejected` for an image that cannot be decoded under the limits.
    """
    dataset = _open(resources, owner, job_id, source)
    limits = limits_of(resources.settings)
    try:
        with open_files(dataset, resources.artifacts, resources.settings) as files:
            sample = _find(files, dataset, path)
            if sample is None:
                raise ImageNotFound(f"The dataset of job {job_id!r} has no image {path[:200]!r}.", param="path")
            content = _read(files, sample, limits.max_bytes)
    except (DatasetRejected, DatasetInvalid, ArtifactMissing) as error:
        raise _away(dataset.reference, error.message) from error
    except OSError as error:
        raise _away(dataset.reference, f"{error.strerror}.") from error
    image = decode_image(content, limits)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    thumbnail = BytesIO()
    image.save(thumbnail, "JPEG", quality=QUALITY)
    return thumbnail.getvalue()


def _open(resources: Resources, owner: str, job_id: str, source: Source) -> Dataset:
    """Where the job's images lie, when that is where this process can look at once."""
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
    return dataset


def _away(reference: str, reason: str) -> ImageNotFound:
    message = f"The pictures of {reference[:200]!r} are not at hand: {reason}"
    return ImageNotFound(message, code="image_not_at_hand")


def _find(files: StoredFiles, dataset: Dataset, path: str) -> Sample | None:
    layout = read_dataset(files, manifest=dataset.manifest, min_classes=1)
    return next((sample for sample in layout.samples if sample.path == path), None)


def _read(files: StoredFiles, sample: Sample, max_bytes: int) -> bytes:
    """The bytes of the image, at most one more than is allowed."""
    place = sample.place
    if place is not None:
        with files.open(place.location) as opened:
            if place.is_base64:
                opened.seek(place.offset)
                return decode_text(opened.read(place.num_bytes))
            return next(islice(iterate_row_group(opened, place.location, place.row_group), place.row, None))
    if files.sizes[sample.path] > max_bytes:
        raise ImageRejected(f"{sample.path} has {files.sizes[sample.path]:,} bytes; at most {max_bytes:,} are allowed.")
    with files.open(sample.path) as opened:
        return opened.read(max_bytes + 1)
