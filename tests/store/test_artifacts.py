"""The artifact store, in a folder and in an object store."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.errors import ArtifactMissing


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A server that speaks S3's protocol; its address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket, which the environment leads to as it leads an operator's processes."""
    variables = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{secrets.token_hex(6)}"
    boto3.client("s3").create_bucket(Bucket=name)
    s3fs.S3FileSystem.clear_instance_cache()
    return name


@pytest.fixture(params=["folder", "file-url", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A place of the test's own for each kind of store; memory has no folders and no renames, like a bucket."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket')}/store"
    if request.param == "memory":
        return f"memory://{secrets.token_hex(8)}/store"
    path = tmp_path / "store with spaces"
    return str(path) if request.param == "folder" else f"file://{path}"


@pytest.fixture
def store(location: str) -> ArtifactStore:
    return ArtifactStore(location)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, with a folder below it and an empty file."""
    folder = tmp_path / "model"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"w" * 100_000)
    (folder / "sub" / "deep" / "manifest.json").write_text("{}")
    (folder / "empty").touch()
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_comes_back_as_it_was_put(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    uri = store.put_folder(folder, "jobs/ftjob-1/model")
    fetched = store.fetch_folder(uri, tmp_path / "below" / "fetched")
    assert _contents(fetched) == _contents(folder)
    assert _contents(store.fetch_folder(uri, fetched)) == _contents(folder), "again, over the former"


def test_a_folder_that_is_put_from_a_stored_one_is_complete(folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    stored = store.local_path(store.put_folder(folder, "a"))
    (stored / "empty").unlink()
    fetched = store.fetch_folder(store.put_folder(stored, "b"), tmp_path / "fetched")
    assert sorted(_contents(fetched)) == ["sub/deep/manifest.json", "weights.safetensors"]


def test_a_file_comes_back_as_it_was_put(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    uri = store.put_file(folder / "weights.safetensors", "files/file-1.zip")
    assert store.fetch_file(uri, tmp_path / "below" / "fetched.zip").read_bytes() == b"w" * 100_000


def test_what_is_put_again_takes_the_place_of_the_former(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    store.put_folder(folder, "jobs/model")
    (folder / "empty").unlink()
    (folder / "weights.safetensors").write_bytes(b"new")
    store.put_file(folder / "weights.safetensors", "file")
    store.put_file(folder / "sub/deep/manifest.json", "file")
    fetched = store.fetch_folder(store.put_folder(folder, "jobs/model"), tmp_path / "fetched")
    assert _contents(fetched) == _contents(folder)
    assert store.fetch_file("artifact:file", tmp_path / "file").read_text() == "{}"


def test_another_process_with_the_same_location_finds_it(
    store: ArtifactStore, location: str, folder: Path, tmp_path: Path
) -> None:
    uri = store.put_folder(folder, "a/b")
    assert _contents(ArtifactStore(location).fetch_folder(uri, tmp_path / "fetched")) == _contents(folder)


def test_a_store_that_moved_keeps_its_uris(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    local = ArtifactStore(str(tmp_path / "here"))
    uri = local.put_folder(folder, "a/b")
    (tmp_path / "here").rename(tmp_path / "there")
    fetched = ArtifactStore(str(tmp_path / "there")).fetch_folder(uri, tmp_path / "fetched")
    assert _contents(fetched) == _contents(folder)


def test_a_file_and_a_member_of_a_folder_are_opened_for_reading_and_seeking(store: ArtifactStore, folder: Path) -> None:
    uri = store.put_folder(folder, "a")
    with store.open(f"{uri}/weights.safetensors") as file:
        file.seek(99_990)
        assert file.read() == b"w" * 10
    with store.open(store.put_file(folder / "sub/deep/manifest.json", "b")) as file:
        assert file.read() == b"{}"


def test_only_what_lies_on_this_machine_has_a_local_path(store: ArtifactStore, location: str, folder: Path) -> None:
    uri = store.put_folder(folder, "a")
    path = store.local_path(uri)
    if location.startswith(("memory", "s3")):
        assert path is None
    else:
        assert (path / "weights.safetensors").read_bytes() == b"w" * 100_000
        with pytest.raises(ArtifactMissing):
            store.local_path("artifact:none")


def test_what_is_deleted_is_gone_and_deleting_again_is_no_fault(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    kept = store.put_file(folder / "empty", "jobs/1/kept")
    for uri in (store.put_folder(folder, "jobs/1/model"), store.put_file(folder / "empty", "jobs/1/file")):
        store.delete(uri)
        store.delete(uri)
    for attempt in _attempts(store, "artifact:jobs/1/model", tmp_path):
        with pytest.raises(ArtifactMissing, match="jobs/1/model"):
            attempt()
    store.fetch_file(kept, tmp_path / "kept")


def test_what_was_never_put_is_missing_and_leaves_nothing_behind(store: ArtifactStore, tmp_path: Path) -> None:
    for attempt in _attempts(store, "artifact:none", tmp_path / "target"):
        with pytest.raises(ArtifactMissing, match="artifact:none"):
            attempt()
    assert list((tmp_path / "target").iterdir()) == []


def test_a_folder_that_lost_a_file_or_was_never_finished_is_not_fetched(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    uri = store.put_folder(folder, "a")
    for name in ("weights.safetensors", ".files.json"):
        store._fs.rm_file(f"{store._root}/a/{name}")
        with pytest.raises(ArtifactMissing):
            store.fetch_folder(uri, tmp_path / "target" / "fetched")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_file_that_was_cut_short_is_not_fetched(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    uri = store.put_folder(folder, "a")
    store._fs.pipe_file(f"{store._root}/a/weights.safetensors", b"w" * 99_999)
    with pytest.raises(ArtifactMissing, match="99999 bytes, wanted 100000"):
        store.fetch_folder(uri, tmp_path / "fetched")


def test_a_listing_that_leads_out_of_its_folder_is_refused(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    uri = store.put_folder(folder, "a")
    store.put_file(folder / "empty", "secret")
    store._fs.pipe_file(f"{store._root}/a/.files.json", b'{"../secret": 0}')
    with pytest.raises(ValueError, match="no artifact key"):
        store.fetch_folder(uri, tmp_path / "target" / "fetched")
    assert not (tmp_path / "target" / "secret").exists()


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "./a", "a\\b", "a\0b"])
def test_a_key_that_leads_out_of_the_store_is_refused(store: ArtifactStore, folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match="no artifact key"):
        store.put_file(folder / "empty", key)
    with pytest.raises(ValueError, match="no artifact key"):
        store.delete(f"artifact:{key}")


@pytest.mark.parametrize("uri", ["/etc/passwd", "file:///etc/passwd", "s3://bucket/key"])
def test_only_uris_of_the_store_are_read(store: ArtifactStore, uri: str) -> None:
    with pytest.raises(ValueError, match="no artifact URI"):
        store.open(uri)


def test_a_put_that_fails_leaves_the_former_in_place(tmp_path: Path, folder: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    uri = store.put_folder(folder, "a")
    before = _contents(folder)
    (folder / "weights.safetensors").write_bytes(b"new")
    (folder / "zz").symlink_to(folder / "weights.safetensors")

    class Failing(type(store._fs)):  # type: ignore[misc]
        def put_file(self, local: str, target: str, **options: object) -> None:
            if local.endswith("zz"):
                raise OSError("No space left on device")
            super().put_file(local, target, **options)

    store._fs = Failing()
    with pytest.raises(OSError, match="No space"):
        store.put_folder(folder, "a")
    assert _contents(ArtifactStore(str(tmp_path / "store")).fetch_folder(uri, tmp_path / "fetched")) == before
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a"]


def _attempts(store: ArtifactStore, uri: str, target: Path) -> list[Callable[[], object]]:
    return [
        lambda: store.fetch_folder(uri, target / "folder"),
        lambda: store.fetch_file(uri, target / "file"),
        lambda: store.open(uri),
    ]


def test_what_lies_below_a_key_is_listed_complete_or_not(store: ArtifactStore, folder: Path) -> None:
    assert store.list_children("jobs/a/checkpoints") == []
    uris = [store.put_folder(folder, f"jobs/a/checkpoints/step-{step}") for step in (1, 2)]
    store.put_file(folder / "empty", "jobs/a/trainer.log")
    assert store.list_children("jobs/a/checkpoints") == uris
    assert store.list_children("jobs/a") == ["artifact:jobs/a/checkpoints", "artifact:jobs/a/trainer.log"]
    store.delete(uris[0])
    assert [store.exists(uri) for uri in uris] == [False, True]
    assert store.list_children("jobs/a/checkpoints") == uris[1:]
