"""The files of a dataset below an fsspec URL: a bucket, a dataset on a hub, a web server."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from fsspec.core import url_to_fs
from huggingface_hub import get_token

from alignclip_store.archives import ByteBudget, DatasetLimits, check_path
from alignclip_store.aside import renamed_when_complete
from alignclip_store.errors import DatasetRejected
from alignclip_store.location import Location

BATCH = 64  # files that are fetched at once
SIGNED_SECONDS = 7 * 24 * 3600  # how long a presigned URL holds: the longest that S3 gives


class SourceUnreachable(OSError):
    """The place of a dataset answered with an error of its own kind: it may be there a little later."""


class ObjectFiles:
    """All files below a URL. Credentials come from the environment of the process, as the backend reads them."""

    def __init__(self, url: str, limits: DatasetLimits) -> None:
        """Raises `DatasetRejected` where nothing is there, and `SourceUnreachable`."""
        self._url = url
        self._limits = limits
        with _backend(url):
            self._fs, root = url_to_fs(url.rstrip("/"), use_listings_cache=False)
            self._root = str(root).rstrip("/")
            found = self._fs.find(self._root, detail=True)
        self._sizes = dict(self._checked(found))
        if not self._sizes:
            raise DatasetRejected(f"There is nothing at {url!r}.")

    @property
    def sizes(self) -> dict[str, int]:
        return self._sizes

    def open(self, path: str) -> BinaryIO:
        with _backend(self._url):
            opened: BinaryIO = self._fs.open(self._path(path), "rb")
        return opened

    def fetch(
        self, target: Path, *, only: Collection[str] | None = None, on_file: Callable[[], None] | None = None
    ) -> Path:
        """Copy the files below the new folder `target`, which appears when all of them are there."""
        chosen = [name for name in self._sizes if only is None or name in only]
        budget = ByteBudget(self._limits.max_bytes, f"The dataset holds more than {self._limits.max_bytes} bytes")
        with renamed_when_complete(target) as aside:
            aside.mkdir()
            for start in range(0, len(chosen), BATCH):
                names = chosen[start : start + BATCH]
                for name in names:
                    budget.spend(self._sizes[name], name)
                    (aside / name).parent.mkdir(parents=True, exist_ok=True)
                    if on_file is not None:
                        on_file()
                with _backend(self._url):
                    self._fs.get([self._path(name) for name in names], [str(aside / name) for name in names])
                for name in names:
                    if (aside / name).stat().st_size != self._sizes[name]:
                        raise SourceUnreachable(f"{name!r} of {self._url!r} changed while it was fetched.")
        return target

    def locate(self, path: str) -> Location | None:
        """A URL that anyone may read who has it: presigned, or public; None where there is no such."""
        url = _locate(self._fs, self._path(path))
        return None if url is None else Location(url, 0, self._sizes[path])

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _checked(self, found: dict[str, Any]) -> Iterator[tuple[str, int]]:
        """(relative path, bytes) of each visible file."""
        num_bytes = 0
        for path, info in sorted(found.items()):
            name = posixpath.relpath(path, self._root)
            if name == "." or any(part.startswith(".") for part in name.split("/")) or path.endswith("/"):
                continue
            check_path(name)
            num_bytes += int(info.get("size") or 0)
            yield name, int(info.get("size") or 0)
        if len(found) > self._limits.max_files:
            raise DatasetRejected(f"{self._url!r} has more than {self._limits.max_files} files; that is the limit.")


@contextmanager
def opened_object(url: str) -> Iterator[BinaryIO]:
    """One file at a URL. Raises `DatasetRejected` where it is not there, and `SourceUnreachable`."""
    with _backend(url):
        fs, path = url_to_fs(url, use_listings_cache=False)
        opened = fs.open(path, "rb")
    with opened:
        yield opened


def locate_object(url: str) -> str | None:
    """As `ObjectFiles.locate`, for one file."""
    with _backend(url):
        fs, path = url_to_fs(url, use_listings_cache=False)
        return _locate(fs, str(path))


def _locate(fs: Any, path: str) -> str | None:
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & {"http", "https"}:
        return path
    if "hf" in protocols:  # with a token the dataset may be private, and the trainer gets no token
        return None if fs.token or get_token() else str(fs.url(path))
    try:
        return str(fs.sign(path, expiration=SIGNED_SECONDS))
    except NotImplementedError:  # fsspec's word for a backend that cannot presign
        return None


@contextmanager
def _backend(url: str) -> Iterator[None]:
    """One kind of error for all backends."""
    try:
        yield
    except DatasetRejected:
        raise
    except (FileNotFoundError, PermissionError, ImportError, ValueError) as error:
        _refuse(url, error)
    except Exception as error:
        if "NotFound" in type(error).__name__:  # the hub's own
            _refuse(url, error)
        raise SourceUnreachable(f"{url!r} cannot be read now ({type(error).__name__}: {str(error)[:300]}).") from error


def _refuse(url: str, error: Exception) -> NoReturn:
    raise DatasetRejected(f"{url!r} cannot be read ({type(error).__name__}: {str(error)[:300]}).") from error
