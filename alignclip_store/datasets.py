"""Dataset references: a file id, or a path or URL below what the operator opened for it.

`dataset_roots` opens folders, `dataset_urls` beginnings of fsspec URLs (s3://bucket/sets/, hf://datasets/acme/), and
`torchvision_root` the folder to which torchvision unpacked its datasets (torchvision://DTD).
A path is followed to where it really leads before it is compared with the roots, and opened from the root down, one
folder at a time and through no link: what was checked is what is read, whatever is renamed in between.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from sqlalchemy.orm import Session

from alignclip_store.archives import DatasetLimits
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.dataset_files import FolderFiles, StoredFiles, open_container
from alignclip_store.errors import DatasetRejected
from alignclip_store.files import get_file
from alignclip_store.folders import open_below
from alignclip_store.objects import ObjectFiles, locate_object, opened_object
from alignclip_store.references import CONTAINER_SUFFIXES, FILE_ID_PREFIX, MANIFEST_SUFFIXES, TORCHVISION
from alignclip_store.settings import Settings
from alignclip_store.shard_files import with_shards

MAX_REFERENCE_BYTES = 4096
TORCHVISION_FOLDERS = MappingProxyType(
    {
        "Caltech101": "caltech101/101_ObjectCategories",
        "DTD": "dtd/dtd",
        "EuroSAT": "eurosat/2750",
        "FGVCAircraft": "fgvc-aircraft-2013b",
        "Flowers102": "flowers-102",
        "Food101": "food-101",
        "OxfordIIITPet": "oxford-iiit-pet",
        "StanfordCars": "stanford_cars",
        "SUN397": "SUN397",
    }
)
"""Where each class of torchvision unpacks below its root."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where a dataset reference leads: to an artifact, to a place below a root, or to a URL."""

    reference: str
    param: str  # the field that named it, for errors
    artifact_uri: str | None = None
    name: str = ""  # of the uploaded file
    root: Path | None = None  # without links
    place: PurePosixPath | None = None  # below the root, without links: a folder or a container
    url: str | None = None
    manifest: str | None = None  # the file of the folder that the reference named


def dataset_limits(settings: Settings) -> DatasetLimits:
    """The limits of the settings."""
    return DatasetLimits(max_bytes=settings.max_dataset_bytes, max_files=settings.max_dataset_files)


def open_dataset(
    session: Session, owner: str, reference: str, settings: Settings, *, param: str = "training_file"
) -> Dataset:
    """Where the reference leads, when this owner may read it. Raises `FileNotFound` or `DatasetRejected`."""
    if reference.startswith(FILE_ID_PREFIX):
        file = get_file(session, owner, reference, param=param)
        return Dataset(reference=reference, param=param, artifact_uri=file.artifact_uri, name=file.filename)
    return locate_dataset(reference, settings, param=param)


def locate_dataset(reference: str, settings: Settings, *, param: str = "training_file") -> Dataset:
    """Where a path or URL leads, when the settings open it. Raises `DatasetRejected`."""
    with _naming(param):
        if "://" in reference and not reference.startswith(("file://", TORCHVISION)):
            return _open_url(reference, settings, param)
        if reference.startswith(TORCHVISION):
            return _open_torchvision(reference, settings, param)
        path = _path_of(reference)
        real = Path(os.path.realpath(path))
        for root in (Path(os.path.realpath(root.expanduser())) for root in settings.dataset_roots):
            if real.is_relative_to(root):
                place = PurePosixPath(real.relative_to(root))
                if not real.exists():
                    raise DatasetRejected(f"There is nothing at {reference!r}.")
                if real.name.lower().endswith(MANIFEST_SUFFIXES):
                    return Dataset(reference=reference, param=param, root=root, place=place.parent, manifest=place.name)
                return Dataset(reference=reference, param=param, root=root, place=place)
        raise DatasetRejected(
            f"{reference!r} is not below a dataset root of this service; upload a zip, or ask its operator to add the "
            "folder to ALIGNCLIP_DATASET_ROOTS."
        )


@contextmanager
def open_files(dataset: Dataset, artifacts: ArtifactStore, settings: Settings) -> Iterator[StoredFiles]:
    """The files of the dataset while the block runs, those in its shards, too. Raises `DatasetRejected`."""
    limits = dataset_limits(settings)
    with _naming(dataset.param), ExitStack() as stack:
        files = stack.enter_context(_opened(dataset, artifacts, limits))
        yield stack.enter_context(with_shards(files, limits))


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
        raise DatasetRejected(f"{shown!r}: this service fetches no URLs of that kind; wanted a file id or a path.")
    if not path.isprintable() or not path.startswith("/") or len(path.encode()) > MAX_REFERENCE_BYTES:
        raise DatasetRejected(f"{shown!r} is neither a file id ({FILE_ID_PREFIX}...) nor an absolute path.")
    return path


def _open_url(reference: str, settings: Settings, param: str) -> Dataset:
    """A URL below one that the operator opened; nothing in it may lead elsewhere."""
    shown = reference[:200]
    tail = reference.partition("://")[2].split("/")
    is_plain = reference.isprintable() and len(reference.encode()) <= MAX_REFERENCE_BYTES
    if not is_plain or {"..", "."} & set(tail) or set("?#\\%") & set(reference) or "::" in reference or "@" in tail[0]:
        raise DatasetRejected(f"{shown!r} is no plain URL of a folder or file, such as s3://bucket/pets.")
    url = reference.rstrip("/")
    if not any(f"{url}/".startswith(f"{opened.rstrip('/')}/") for opened in settings.dataset_urls):
        raise DatasetRejected(
            f"{shown!r}: this service fetches no URLs but those that its operator opened; upload a zip or a tar, or "
            "ask for its beginning to be added to ALIGNCLIP_DATASET_URLS."
        )
    folder, _, name = url.rpartition("/")
    if name.lower().endswith(MANIFEST_SUFFIXES):
        return Dataset(reference=reference, param=param, url=folder, manifest=name)
    return Dataset(reference=reference, param=param, url=url)


def _open_torchvision(reference: str, settings: Settings, param: str) -> Dataset:
    name = reference.removeprefix(TORCHVISION)
    if name not in TORCHVISION_FOLDERS:
        known = ", ".join(sorted(TORCHVISION_FOLDERS))
        raise DatasetRejected(f"{reference[:200]!r} is no dataset of torchvision that is read here; known: {known}.")
    if settings.torchvision_root is None:
        raise DatasetRejected(
            f"{reference!r}: this service has no folder of torchvision's datasets; ask its operator to set "
            "ALIGNCLIP_TORCHVISION_ROOT."
        )
    root, place = Path(os.path.realpath(settings.torchvision_root.expanduser())), TORCHVISION_FOLDERS[name]
    if not (root / place).is_dir():
        raise DatasetRejected(
            f"{name} is not there yet; its operator fetches it with torchvision.datasets.{name}(root, download=True)."
        )
    return Dataset(reference=reference, param=param, root=root, place=PurePosixPath(place))


@contextmanager
def _opened(dataset: Dataset, artifacts: ArtifactStore, limits: DatasetLimits) -> Iterator[StoredFiles]:
    if dataset.artifact_uri is not None:
        local = artifacts.local_path(dataset.artifact_uri)
        with artifacts.open(dataset.artifact_uri) as file:
            yield open_container(dataset.name, file, limits, where=str(local) if local else None)
    elif dataset.url is not None:
        if dataset.url.lower().endswith(CONTAINER_SUFFIXES):
            name = dataset.url.rpartition("/")[2]
            with opened_object(dataset.url) as file:
                yield open_container(name, file, limits, where=locate_object(dataset.url))
        else:
            yield ObjectFiles(dataset.url, limits)
    else:
        with _opened_place(dataset, limits) as files:
            yield files


@contextmanager
def _opened_place(dataset: Dataset, limits: DatasetLimits) -> Iterator[StoredFiles]:
    assert dataset.root is not None
    assert dataset.place is not None
    path = dataset.root / dataset.place
    descriptor = open_below(dataset.root, dataset.place)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            yield FolderFiles(descriptor, path, limits)
        else:
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                yield open_container(dataset.place.name, file, limits, where=str(path))
    finally:
        os.close(descriptor)


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """Tells in a refusal which field named the dataset."""
    try:
        yield
    except DatasetRejected as error:
        raise DatasetRejected(error.message, param=param) from error
