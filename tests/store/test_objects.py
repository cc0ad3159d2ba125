"""Datasets below URLs: a real S3 server in a thread, and what may not be reached."""

import io
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from sqlalchemy import Engine

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import reading
from alignclip_store.datasets import Dataset, open_dataset, open_files
from alignclip_store.errors import DatasetRejected
from alignclip_store.settings import Settings
from tests.stored_datasets import fetch_dataset, list_dataset

FILES = {"cat/1.jpg": b"cat", "dog/1.jpg": b"dog dog", ".hidden/x.jpg": b"x"}


@pytest.fixture(scope="module", autouse=True)
def buckets(s3: S3FileSystem) -> None:
    """Pictures in the buckets `opened` and `secret`."""
    for bucket in ("opened", "secret"):
        s3.mkdir(bucket)
        for name, content in FILES.items():
            s3.pipe_file(f"{bucket}/pets/{name}", content)
    s3.pipe_file("opened/shards/pets-0.tar", shard())
    s3.pipe_file("opened/pets-private/cat/1.jpg", b"private")


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(dataset_urls=["s3://opened/pets/", "s3://opened/shards", "memory://pets"])


@pytest.fixture
def artifacts(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.artifacts_location)


@pytest.fixture
def open_reference(engine: Engine, settings: Settings) -> Callable[[str], Dataset]:
    def open_it(reference: str) -> Dataset:
        with reading(engine) as session:
            return open_dataset(session, "ada", reference, settings)

    return open_it


def shard() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, (name, content) in enumerate(FILES.items()):
            for suffix, part in (("jpg", content), ("cls", name.split("/")[0].encode())):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(part)
                tar.addfile(info, io.BytesIO(part))
    return buffer.getvalue()


def test_a_bucket_is_listed_and_fetched(
    open_reference: Callable[[str], Dataset],
    artifacts: ArtifactStore,
    settings: Settings,
    tmp_path: Path,
) -> None:
    dataset = open_reference("s3://opened/pets")
    assert list_dataset(dataset, artifacts, settings) == ["cat/1.jpg", "dog/1.jpg"]
    seen: list[int] = []
    target = fetch_dataset(dataset, artifacts, settings, tmp_path / "dataset", on_file=lambda: seen.append(1))
    assert (target / "dog/1.jpg").read_bytes() == b"dog dog"
    assert len(seen) == 2
    only = fetch_dataset(dataset, artifacts, settings, tmp_path / "only", only=["dog/1.jpg"])
    assert [path.name for path in only.rglob("*") if path.is_file()] == ["1.jpg"]


def test_an_object_of_a_bucket_is_at_a_presigned_url_for_those_without_credentials(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings
) -> None:
    with open_files(open_reference("s3://opened/pets"), artifacts, settings) as files:
        place = files.locate("dog/1.jpg")
    assert place is not None
    assert urllib.request.urlopen(place.where).read() == b"dog dog"


def test_members_of_shards_in_a_bucket_are_files_with_a_place(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings
) -> None:
    for reference, top in (("s3://opened/shards", "pets-0.tar/"), ("s3://opened/shards/pets-0.tar", "")):
        with open_files(open_reference(reference), artifacts, settings) as files:
            assert len(files.sizes) == 6
            assert files.open(f"{top}1.cls").read() == b"dog"
            assert files.open(f"{top}1.jpg").read() == b"dog dog"
            place = files.locate(f"{top}1.jpg")
        assert place is not None
        last = place.offset + place.num_bytes - 1
        request = urllib.request.Request(place.where, headers={"Range": f"bytes={place.offset}-{last}"})
        assert urllib.request.urlopen(request).read() == b"dog dog"


def test_what_is_not_there_is_refused(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings
) -> None:
    for reference in ("s3://opened/pets/none", "s3://opened/pets/none.tar"):
        with pytest.raises(DatasetRejected, match=r"nothing at|cannot be read"):
            list_dataset(open_reference(reference), artifacts, settings)


def test_a_bucket_over_the_limits_is_refused(
    open_reference: Callable[[str], Dataset],
    artifacts: ArtifactStore,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    dataset = open_reference("s3://opened/pets")
    with pytest.raises(DatasetRejected, match="more than 1 files"):
        list_dataset(dataset, artifacts, make_settings(max_dataset_files=1))
    with pytest.raises(DatasetRejected, match="more than 5 bytes"):
        fetch_dataset(dataset, artifacts, make_settings(max_dataset_bytes=5), tmp_path / "dataset")
    assert list(tmp_path.glob("dataset")) == []


@pytest.mark.parametrize(
    "reference",
    [
        "s3://secret/pets",
        "s3://opened",
        "s3://opened/pets-private",
        "s3://opened/other",
        "http://169.254.169.254/latest/meta-data",
        "file2://etc",
        "github://org:repo@main/",
        "local:///etc",
        "memory://petshop",
        "gopher://pets",
        "hf://datasets/acme/pets",
    ],
)
def test_only_urls_below_the_opened_ones_are_read(open_reference: Callable[[str], Dataset], reference: str) -> None:
    with pytest.raises(DatasetRejected, match=r"fetches no URLs|no plain URL"):
        open_reference(reference)


@pytest.mark.parametrize(
    "reference",
    [
        "s3://opened/pets/../../secret/pets",
        "s3://opened/pets/./x",
        "s3://opened/pets::http://169.254.169.254/",
        "s3://opened/pets?versionId=1",
        "s3://opened/pets#x",
        "s3://user@opened/pets",
        "s3://opened/pets/%2e%2e/x",
        "s3://opened/pets\\x",
        "s3://opened/pets\n",
        "s3://opened/pets/" + "x" * 5000,
    ],
)
def test_a_url_with_anything_that_could_lead_elsewhere_is_refused(
    open_reference: Callable[[str], Dataset], reference: str
) -> None:
    with pytest.raises(DatasetRejected, match=r"no plain URL|fetches no URLs"):
        open_reference(reference)


def test_torchvisions_root_must_be_opened_and_the_dataset_be_there(
    make_settings: Callable[..., Settings], engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "dtd/dtd").mkdir(parents=True)

    def opened(reference: str, **fields: object) -> Dataset:
        with reading(engine) as session:
            return open_dataset(session, "ada", reference, make_settings(**fields))

    with pytest.raises(DatasetRejected, match="ALIGNCLIP_TORCHVISION_ROOT"):
        opened("torchvision://DTD")
    with pytest.raises(DatasetRejected, match="known: Caltech101, DTD"):
        opened("torchvision://../etc", torchvision_root=tmp_path)
    with pytest.raises(DatasetRejected, match=r"torchvision\.datasets\.Food101\(root, download=True\)"):
        opened("torchvision://Food101", torchvision_root=tmp_path)
    assert opened("torchvision://DTD", torchvision_root=tmp_path).root == tmp_path
