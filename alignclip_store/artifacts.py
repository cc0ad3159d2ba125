"""Files that are kept for a job: in a local folder, or in what else fsspec reaches, such as s3://.

An artifact's URI names its place below the store (`artifact:jobs/ftjob-1/model`), not the store: artifacts may move,
from a folder to a bucket for example, and the rows that name them stay true.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from alignclip_store.aside import remove_leftovers, renamed_when_complete, sync
from alignclip_store.errors import ArtifactMissing

SCHEME = "artifact:"
LISTING = ".files.json"  # names and sizes of a folder's files; written last, so that its presence means complete


class ArtifactStore:
    """Puts and fetches files and folders whole: what can be fetched is complete."""

    def __init__(self, location: str) -> None:
        """`location`: a folder or an fsspec URL. Credentials come from the environment, as the backend reads them."""
        self._fs, root = url_to_fs(location, use_listings_cache=False)  # other processes write too
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def put_file(self, local: Path, key: str) -> str:
        """Store a file under the key, in place of what is there; its URI."""
        path = self._path(key)
        with self._aside(path) as aside:
            self._fs.put_file(str(local), aside)
        return uri_of(key)

    def put_folder(self, local: Path, key: str) -> str:
        """Store a folder with all files in it under the key, in place of what is there; its URI."""
        path = self._path(key)
        files = [file for file in sorted(local.rglob("*")) if file.is_file() and file != local / LISTING]
        sizes = {str(file.relative_to(local)): file.stat().st_size for file in files}
        if not self._is_local:
            self.delete(SCHEME + key)  # its listing first: half of the old and half of the new is never complete
        with self._aside(path) as aside:
            for name in sizes:
                self._fs.makedirs(f"{aside}/{name}".rpartition("/")[0], exist_ok=True)
                self._fs.put_file(str(local / name), f"{aside}/{name}")
            self._fs.makedirs(aside, exist_ok=True)
            self._fs.pipe_file(f"{aside}/{LISTING}", json.dumps(sizes).encode())
        return SCHEME + key

    def fetch_file(self, uri: str, local: Path) -> Path:
        """Copy a file to the path `local`. Raises `ArtifactMissing`."""
        path = self._path_of(uri)
        with renamed_when_complete(local) as aside:
            self._get(path, aside, self._size(path, uri), uri)
        return local

    def fetch_folder(self, uri: str, local: Path) -> Path:
        """Copy a folder to the path `local`, in place of what is there. Raises `ArtifactMissing`."""
        path = self._path_of(uri)
        sizes = self._listing(path, uri)
        with renamed_when_complete(local) as aside:
            aside.mkdir()
            for name, size in sizes.items():
                (aside / name).parent.mkdir(parents=True, exist_ok=True)
                self._get(f"{path}/{name}", aside / name, size, uri)
        return local

    def open(self, uri: str) -> IO[bytes]:
        """A file, or `<uri of a folder>/<name>`, for reading; it can seek. Raises `ArtifactMissing`."""
        try:
            opened: IO[bytes] = self._fs.open(self._path_of(uri), "rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise _missing(uri) from error
        return opened

    def local_path(self, uri: str) -> Path | None:
        """Where the artifact lies on this machine, to be read without a copy; None when it lies elsewhere."""
        path = self._path_of(uri)
        if not self._is_local:
            return None
        if not Path(path).exists():
            raise _missing(uri)
        return Path(path)

    def exists(self, uri: str) -> bool:
        """Whether there is anything, complete or not."""
        return bool(self._fs.exists(self._path_of(uri)))

    def delete(self, uri: str) -> None:
        """Remove a file or a folder; nothing happens when it is not there."""
        path = self._path_of(uri)
        try:
            if self._fs.exists(f"{path}/{LISTING}"):
                self._fs.rm_file(f"{path}/{LISTING}")
            self._fs.rm(path, recursive=True)
        except FileNotFoundError:
            return

    def list_children(self, key: str) -> list[str]:
        """URIs of what lies directly below the key, complete or not; nothing where it is not there."""
        try:
            paths = self._fs.ls(self._path(key), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = {PurePosixPath(path).name for path in paths}
        return [f"{SCHEME}{key}/{name}" for name in sorted(names)]

    def sweep_leftovers(self, age_seconds: float) -> int:
        """Remove what writers that were killed left aside so long ago; returns how many.

        Only a local folder has such: an object store shows nothing that is not whole.
        """
        if not self._is_local:
            return 0
        return remove_leftovers(Path(self._root), age_seconds)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if not all(parts) or {".", ".."} & set(parts) or "\0" in key or "\\" in key:
            raise ValueError(f"{key!r} is no artifact key; wanted names with / between them, such as jobs/a/model.")
        return f"{self._root}/{key}"

    def _path_of(self, uri: str) -> str:
        if not uri.startswith(SCHEME):
            raise ValueError(f"{uri!r} is no artifact URI; wanted {SCHEME}key.")
        return self._path(uri.removeprefix(SCHEME))

    @contextmanager
    def _aside(self, path: str) -> Iterator[str]:
        """Where to write what `path` shall be. An object store shows an object only when it is whole."""
        if not self._is_local:
            yield path
            return
        with renamed_when_complete(Path(path)) as aside:
            yield str(aside)
            sync(aside)  # a row will say that it is there

    def _listing(self, path: str, uri: str) -> dict[str, int]:
        try:
            sizes: dict[str, int] = json.loads(self._fs.cat_file(f"{path}/{LISTING}"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(uri) from error
        for name in sizes:
            self._path_of(f"{uri}/{name}")  # a name that leads out of the folder is refused
        return sizes

    def _size(self, path: str, uri: str) -> int:
        try:
            info: dict[str, Any] = self._fs.info(path)
        except FileNotFoundError as error:
            raise _missing(uri) from error
        if info["type"] != "file":
            raise ArtifactMissing(f"{uri} is a folder, wanted a file.")
        return int(info["size"])

    def _get(self, path: str, local: Path, size: int, uri: str) -> None:
        try:
            self._fs.get_file(path, str(local))
        except FileNotFoundError as error:
            raise _missing(uri) from error
        if local.stat().st_size != size:
            name = PurePosixPath(path).name
            raise ArtifactMissing(f"{name} of {uri} has {local.stat().st_size} bytes, wanted {size}.")


def uri_of(key: str) -> str:
    """The URI of what is stored under a key."""
    return SCHEME + key


def _missing(uri: str) -> ArtifactMissing:
    return ArtifactMissing(f"The files of {uri} are not there, or not complete.")
