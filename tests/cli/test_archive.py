"""A folder becomes a zip while it is read."""

import io
import zipfile

import pytest

from cli.archive import FolderArchive


@pytest.mark.parametrize("chunk_bytes", [1, 7, 65536])
def test_stream_is_the_zip_of_the_files(tmp_path, chunk_bytes):
    contents = {"cat/a.png": b"x" * 5000, "dog/ünï.png": b"", "dog/b.png": bytes(range(256))}
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    read = []
    archive = FolderArchive(tmp_path, list(contents), read.append)
    stream = io.BytesIO()
    while piece := archive.read(chunk_bytes):
        assert len(piece) <= chunk_bytes
        stream.write(piece)
    with zipfile.ZipFile(stream) as unpacked:
        assert unpacked.testzip() is None
        assert {name: unpacked.read(name) for name in unpacked.namelist()} == contents
    assert sum(read) == sum(map(len, contents.values()))


def test_large_folder_is_never_held_in_memory(tmp_path):
    (tmp_path / "large.png").write_bytes(b"0" * 20_000_000)
    archive = FolderArchive(tmp_path, ["large.png"], lambda num_bytes: None)
    archive.read(65536)
    assert len(archive._rest) < 2_000_000
