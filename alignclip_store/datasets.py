"""Dataset references: a file id, or a path below a folder that the operator opened for it (`dataset_roots`).

A path is followed to where it really leads before it is compared with the roots, and opened from the root down, one
folder at a time and through no link: what was checked is what is read, whatever is renamed in between.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from sqlalchemy.orm import Session

from alignclip_store.archives import DatasetLimits, list_archive, unpack_archive
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.errors import DatasetRejected
from alignclip_store.files import get_file
from alignclip_store.folders import copy_folder, list_folder, open_below
from alignclip_store.settings import Settings

FILE_ID_PREFIX = "file-"
MAX_REFERENCE_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where a dataset reference leads: to an artifact, or to a place below a root."""

    reference: str
    param: str  # the field that named it, for errors
    artifact_uri: str | None = None
    root: Path | None = None  # without links
    place: PurePosixPath | None = None  # below the root, without links: a folder or a zip archive


def dataset_limits(settings: Settings) -> DatasetLimits:
    """The limits of the settings."""
    return DatasetLimits(max_bytes=settings.max_dataset_bytes, max_files=settings.max_dataset_files)


def open_dataset(
    session: Session, owner: str, reference: str, settings: Settings, *, param: str = "training_file"
) -> Dataset:
    """Where the reference leads, when this owner may read it. Raises `FileNotFound` or `DatasetRejected`."""
    if reference.startswith(FILE_ID_PREFIX):
        file = get_file(session, owner, reference, param=param)
        return Dataset(reference=reference, param=param, artifact_uri=file.artifact_uri)
    with _naming(param):
        path = _path_of(reference)
        real = Path(os.path.realpath(path))
        for root in (Path(os.path.realpath(root.expanduser())) for root in settings.dataset_roots):
            if real.is_relative_to(root):
                place = PurePosixPath(real.relative_to(root))
                if not real.exists():
                    raise DatasetRejected(f"There is nothing at {reference!r}.")
                return Dataset(reference=reference, param=param, root=root, place=place)
        raise DatasetRejected(
            f"{reference!r} is not below a dataset root of this service; upload a zip, or ask its operator to add the "
            "folder to ALIGNCLIP_DATASET_ROOTS."
        )


def list_dataset(dataset: Dataset, artifacts: ArtifactStore, settings: Settings) -> list[str]:
    """The dataset's files and empty folders, as sorted relative paths, without unpacking or copying any."""
    limits = dataset_limits(settings)
    with _naming(dataset.param), _opened(dataset, artifacts) as opened:
        if isinstance(opened, int):
            return sorted(list_folder(opened, limits))
        return sorted(list_archive(opened, limits))


def fetch_dataset(
    dataset: Dataset,
    artifacts: ArtifactStore,
    settings: Settings,
    target: Path,
    *,
    only: Collection[str] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Path:
    """Copy or unpack the dataset into the new folder `target`, which appears when all files are there.

    `only`: leave out the files that it does not name. `on_file` is called before each file and may raise to stop.
    """
    limits = dataset_limits(settings)
    chosen = frozenset(only) if only is not None else None
    with _naming(dataset.param), _opened(dataset, artifacts) as opened:
        if isinstance(opened, int):
            return copy_folder(opened, target, limits, only=chosen, on_file=on_file)
        return unpack_archive(opened, target, limits, only=chosen, on_file=on_file)


def _path_of(reference: str) -> str:
    """The absolute path that a plain path or a file:// URL names."""
    shown = reference[:200]
    path = reference
    if reference.startswith("file://"):
        url = urlsplit(reference)
        if url.netloc not in ("", "localhost") or url.query or url.fragment:
            raise DatasetRejected(f"{shown!r} is no URL of a local file; wanted file:///folder.")
        path = unquote(url.path)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", reference):
        raise DatasetRejected(f"{shown!r}: this service fetches no URLs; wanted a file id or a path on its machine.")
    if not path.isprintable() or not path.startswith("/") or len(path.encode()) > MAX_REFERENCE_BYTES:
        raise DatasetRejected(f"{shown!r} is neither a file id ({FILE_ID_PREFIX}...) nor an absolute path.")
    return path


@contextmanager
def _opened(dataset: Dataset, artifacts: ArtifactStore) -> Iterator[IO[bytes] | int]:
    """The archive as a file, or the folder as a descriptor."""
    if dataset.artifact_uri is not None:
        with artifacts.open(dataset.artifact_uri) as archive:
            yield archive
        return
    assert dataset.root is not None
    assert dataset.place is not None
    descriptor = open_below(dataset.root, dataset.place)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            yield descriptor
        else:
            with os.fdopen(descriptor, "rb", closefd=False) as archive:
                yield archive
    finally:
        os.close(descriptor)


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """Tells in a refusal which field named the dataset."""
    try:
        yield
    except DatasetRejected as error:
        raise DatasetRejected(error.message, param=param) from error
