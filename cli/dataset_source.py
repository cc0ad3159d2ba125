"""A dataset that somebody names in the terminal -> a folder of this machine, with no service in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from alignclip_core.dataset.listing import DatasetFolder
from alignclip_store.artifacts import ArtifactStore
from alignclip_store.datasets import MANIFEST_SUFFIXES, TORCHVISION, locate_dataset, open_files
from alignclip_store.objects import SourceUnreachable
from cli.environment import load_settings
from cli.errors import CliError

OnFile = Callable[[int, int], None]  # files that were fetched, of how many


@contextmanager
def folder_of(reference: str, on_file: OnFile) -> Iterator[DatasetFolder]:
    """A folder stays where it is; what is packed or elsewhere lies in a folder of its own while the block runs.

    Whoever types a reference is the operator of this machine: every path and URL is open. Raises `CliError`, and
    `DatasetRejected` for what is hostile or over the limits.
    """
    path = Path(reference).expanduser()
    if "://" not in reference:
        if not path.exists():
            raise CliError(f"There is nothing at {reference!r}; name a folder, a zip, tar or Parquet file, or a URL.")
        if path.is_dir():
            yield DatasetFolder(path)
            return
        if path.name.lower().endswith(MANIFEST_SUFFIXES):
            yield DatasetFolder(path.parent, path.name)
            return
        reference = str(path.absolute())
    with TemporaryDirectory() as aside:
        yield _fetch(reference, Path(aside) / "dataset", on_file)


def _fetch(reference: str, target: Path, on_file: OnFile) -> DatasetFolder:
    settings = load_settings()
    urls = [] if reference.startswith(TORCHVISION) else [reference]
    opened = settings.model_copy(update={"dataset_roots": [Path("/")], "dataset_urls": urls})
    dataset = locate_dataset(reference, opened)
    try:
        with open_files(dataset, ArtifactStore(settings.artifacts_location), opened) as files:
            num_files, counted = len(files.sizes), iter(range(1, len(files.sizes) + 1))
            files.fetch(target, on_file=lambda: on_file(next(counted, num_files), num_files))
    except SourceUnreachable as error:
        raise CliError(str(error)) from error
    return DatasetFolder(target, dataset.manifest, dataset.url)
