"""A dataset that somebody names in the terminal -> a folder of this machine, with no service in between.

Whoever types a reference is the operator of this machine: every path and URL is open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alignclip_core.dataset.layout import IMAGE_SUFFIXES, list_folder
from alignclip_core.dataset.listing import DatasetFolder
from alignclip_core.dataset.manifest import STEMS
from alignclip_store.references import MANIFEST_SUFFIXES, SHARD_SUFFIX, TORCHVISION, without_suffix
from cli.environment import load_settings
from cli.errors import CliError

OnFile = Callable[[int, int], None]  # files that were fetched, of how many


def name_of(reference: str) -> str:
    """What the dataset is called: its folder or file, without the suffix of what is packed."""
    path = Path(reference.rstrip("/") if "://" in reference else Path(reference).absolute())
    if path.stem in STEMS and path.name.endswith(MANIFEST_SUFFIXES):
        return path.parent.name
    return without_suffix(path.name)


@contextmanager
def folder_of(reference: str, on_file: OnFile) -> Iterator[DatasetFolder]:
    """A folder stays where it is; what is packed or elsewhere lies in a folder of its own while the block runs.

    Raises `CliError`, and `DatasetRejected` for what is hostile or over the limits.
    """
    with TemporaryDirectory() as aside:
        yield provide_folder(reference, Path(aside) / "dataset", on_file)


def provide_folder(reference: str, target: Path, on_file: OnFile = lambda *counts: None) -> DatasetFolder:
    """A folder stays where it is; what is packed or elsewhere comes into `target`, unless it is there. Raises alike."""
    path = Path(reference).expanduser()
    if "://" not in reference:
        if not path.exists():
            raise CliError(f"There is nothing at {reference!r}; name a folder, a zip, tar or Parquet file, or a URL.")
        if path.is_dir() and not _is_of_shards(path):
            return DatasetFolder(path)
        if path.name.lower().endswith(MANIFEST_SUFFIXES):
            return DatasetFolder(path.parent, path.name)
        reference = str(path.absolute())
    return _fetch(reference, target, on_file)


def _is_of_shards(folder: Path) -> bool:
    """Whether its images lie in shards; a tar beside images is what they were unpacked from."""
    suffixes = {Path(name).suffix.lower() for name in list_folder(folder)}
    return SHARD_SUFFIX in suffixes and not suffixes & IMAGE_SUFFIXES


def _fetch(reference: str, target: Path, on_file: OnFile) -> DatasetFolder:
    from alignclip_store.artifacts import ArtifactStore  # imported here: they load SQLAlchemy, fsspec and S3
    from alignclip_store.datasets import locate_dataset, open_files
    from alignclip_store.objects import SourceUnreachable

    settings = load_settings()
    urls = [] if reference.startswith(TORCHVISION) else [reference]
    opened = settings.model_copy(update={"dataset_roots": [Path("/")], "dataset_urls": urls})
    dataset = locate_dataset(reference, opened)
    if target.is_dir():
        return DatasetFolder(target, dataset.manifest, dataset.url)
    try:
        with open_files(dataset, ArtifactStore(settings.artifacts_location), opened) as files:
            num_files, counted = len(files.sizes), iter(range(1, len(files.sizes) + 1))
            files.fetch(target, on_file=lambda: on_file(next(counted, num_files), num_files))
    except SourceUnreachable as error:
        raise CliError(str(error)) from error
    return DatasetFolder(target, dataset.manifest, dataset.url)
