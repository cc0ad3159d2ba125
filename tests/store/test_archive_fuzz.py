"""Archives that were good until bytes of them changed: each is refused in words, or harmless."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alignclip_store.archives import DatasetLimits, unpack_archive
from alignclip_store.errors import DatasetRejected
from alignclip_store.tars import TarFiles
from tests.mutation import mutations

LIMITS = DatasetLimits(max_bytes=200_000, max_files=20)
FILES = {"cat/1.jpg": b"hello " * 50, "dog/häßlich.jpg": bytes(range(256)), "dog/leer.jpg": b""}


def _zip(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.mkdir("cat")
        for name, content in FILES.items():
            archive.writestr(name, content)
        archive.comment = b"made by hand"
    return buffer.getvalue()


def _tar(mode: str, form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        for name, content in (FILES | {f"{'long' * 30}/1.jpg": b"x"}).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _unpack_tar(archive: IO[bytes], target: Path, limits: DatasetLimits) -> None:
    files = TarFiles(archive, limits, keep_labels=True)
    for name in files.sizes:
        if not name.endswith("/"):
            files.open(name).read()
    files.fetch(target)


SEEDS = [
    pytest.param(_zip(zipfile.ZIP_STORED), unpack_archive, id="zip-stored"),
    pytest.param(_zip(zipfile.ZIP_DEFLATED), unpack_archive, id="zip-deflated"),
    pytest.param(_tar("w", tarfile.PAX_FORMAT), _unpack_tar, id="tar-pax"),
    pytest.param(_tar("w", tarfile.GNU_FORMAT), _unpack_tar, id="tar-gnu"),
    pytest.param(_tar("w:gz", tarfile.USTAR_FORMAT), _unpack_tar, id="tar-gz"),
]


@pytest.mark.parametrize(("seed", "unpack"), SEEDS)
def test_a_changed_archive_is_refused_or_harmless(seed: bytes, unpack: Callable[..., object]) -> None:
    _fuzz(seed, unpack, num_examples=150)


@pytest.mark.fuzz
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("seed", "unpack"), SEEDS)
def test_thousands_of_changed_archives_are_refused_or_harmless(seed: bytes, unpack: Callable[..., object]) -> None:
    _fuzz(seed, unpack, num_examples=10_000)


def _fuzz(seed: bytes, unpack: Callable[..., object], *, num_examples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=num_examples, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(content=st.one_of(mutations(seed), st.binary(max_size=600)))
        def check(content: bytes) -> None:
            _refused_or_below(content, unpack, Path(folder))

        check()


def _refused_or_below(content: bytes, unpack: Callable[..., object], folder: Path) -> None:
    """Nothing but a refusal may be raised; what is written stays below the target and within the limits."""
    target = folder / "target"
    try:
        unpack(io.BytesIO(content), target, LIMITS)
    except DatasetRejected:
        assert list(folder.iterdir()) == []
        return
    assert [path.name for path in folder.iterdir()] == ["target"]
    written = list(target.rglob("*"))
    assert all(not path.is_symlink() and (path.is_file() or path.is_dir()) for path in written)
    assert sum(path.stat().st_size for path in written if path.is_file()) <= LIMITS.max_bytes
    shutil.rmtree(target)
