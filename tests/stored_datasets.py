"""What workers and routes do with a dataset's files, as two calls."""

from collections.abc import Callable, Collection
from pathlib import Path

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.datasets import Dataset, open_files
from alignclip_store.settings import Settings


def list_dataset(dataset: Dataset, artifacts: ArtifactStore, settings: Settings) -> list[str]:
    """Its files and empty folders, sorted."""
    with open_files(dataset, artifacts, settings) as files:
        return sorted(files.sizes)


def fetch_dataset(
    dataset: Dataset,
    artifacts: ArtifactStore,
    settings: Settings,
    target: Path,
    *,
    only: Collection[str] | None = None,
    on_file: Callable[[], None] | None = None,
) -> Path:
    """The new folder `target` with all of them, or those that `only` names."""
    with open_files(dataset, artifacts, settings) as files:
        return files.fetch(target, only=frozenset(only) if only is not None else None, on_file=on_file)
