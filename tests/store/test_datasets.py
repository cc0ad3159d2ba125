"""Dataset references: what may be read, and what may not."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
from sqlalchemy import Engine

from alignclip_store.artifacts import ArtifactStore
from alignclip_store.database import create_engine, reading, transaction
from alignclip_store.datasets import Dataset, open_dataset
from alignclip_store.errors import DatasetRejected, FileNotFound
from alignclip_store.files import create_file
from alignclip_store.references import without_suffix
from alignclip_store.settings import Settings
from tests.stored_datasets import fetch_dataset, list_dataset


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset root with pictures of pets, beside a folder that nobody may read."""
    for name in ("root/pets/cat/1.jpg", "root/pets/dog/a/1.jpg", "root/pets/.hidden/x.jpg", "secret/s/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "root"


@pytest.fixture
def settings(make_settings: Callable[..., Settings], root: Path) -> Settings:
    return make_settings(dataset_roots=[root / "nowhere", root])


@pytest.fixture
def artifacts(settings: Settings) -> ArtifactStore:
    return ArtifactStore(settings.artifacts_location)


@pytest.fixture
def open_reference(settings: Settings, migrated_sqlite: Path) -> Callable[[str], Dataset]:
    """Opens a reference of Ada's."""
    engine = create_engine(Settings(database_url=f"sqlite:///{migrated_sqlite}"))

    def open_it(reference: str, param: str = "training_file") -> Dataset:
        with reading(engine) as session:
            return open_dataset(session, "ada", reference, settings, param=param)

    yield open_it
    engine.dispose()


def _zip(path: Path, names: list[str]) -> Path:
    with ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def _contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["mine.csv", "mine.JSONL", "manifest.parquet", "metadata.parquet"])
def test_a_manifest_that_is_named_comes_with_its_folder(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path, name: str
) -> None:
    (root / "pets" / name).touch()
    dataset = open_reference(f"{root}/pets/{name}")
    assert dataset.manifest == name
    assert list_dataset(dataset, artifacts, settings) == sorted(["cat/1.jpg", "dog/a/1.jpg", name])


def test_a_folder_below_a_root_is_listed_and_copied(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path, tmp_path: Path
) -> None:
    (root / "pets/emu").mkdir()
    (root / "pets/emu/.DS_Store").touch()
    for reference in (f"{root}/pets", f"file://{root}/pets", f"file://localhost{root}/pe%74s/"):
        dataset = open_reference(reference)
        assert list_dataset(dataset, artifacts, settings) == ["cat/1.jpg", "dog/a/1.jpg", "emu/"]
        target = fetch_dataset(dataset, artifacts, settings, tmp_path / "run" / "dataset")
        assert (target / "emu").is_dir(), "that a class has no images must be seen after copying, too"
        assert _contents(target) == {"cat/1.jpg": "root/pets/cat/1.jpg", "dog/a/1.jpg": "root/pets/dog/a/1.jpg"}
        (target / "cat/1.jpg").write_text("changed")
        shutil.rmtree(target)
    assert (root / "pets/cat/1.jpg").read_text() == "root/pets/cat/1.jpg"


def test_an_archive_below_a_root_is_listed_and_unpacked(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path, tmp_path: Path
) -> None:
    dataset = open_reference(str(_zip(root / "pets.zip", ["dog/1.jpg", "cat/1.jpg"])))
    assert list_dataset(dataset, artifacts, settings) == ["cat/1.jpg", "dog/1.jpg"]
    target = fetch_dataset(dataset, artifacts, settings, tmp_path / "dataset")
    assert _contents(target) == {"cat/1.jpg": "cat/1.jpg", "dog/1.jpg": "dog/1.jpg"}


def test_an_uploaded_file_is_listed_and_unpacked_for_its_owner_alone(
    engine: Engine, artifacts: ArtifactStore, settings: Settings, tmp_path: Path
) -> None:
    uri = artifacts.put_file(_zip(tmp_path / "pets.zip", ["cat/1.jpg", "dog/1.jpg"]), "files/a.zip")
    with transaction(engine) as session:
        file = create_file(
            session, "ada", filename="pets.zip", purpose="fine-tune", num_bytes=1, sha256="0", artifact_uri=uri
        )
    with reading(engine) as session:
        dataset = open_dataset(session, "ada", file.id, settings)
        with pytest.raises(FileNotFound) as caught:
            open_dataset(session, "eve", file.id, settings, param="validation_file")
    assert caught.value.param == "validation_file"
    assert list_dataset(dataset, artifacts, settings) == ["cat/1.jpg", "dog/1.jpg"]
    target = fetch_dataset(dataset, artifacts, settings, tmp_path / "dataset", only=["dog/1.jpg"])
    assert _contents(target) == {"dog/1.jpg": "dog/1.jpg"}


@pytest.mark.parametrize(
    "reference",
    [
        "{tmp}/secret",
        "{tmp}/root/../secret",
        "{tmp}/root/pets/../../secret/s",
        "file://{tmp}/root/%2e%2e/secret",
        "{tmp}/root-private",
        "{tmp}",
        "/",
        "/etc/passwd",
        "/proc/self/root",
    ],
)
def test_a_path_outside_the_roots_is_refused_whether_it_exists_or_not(
    open_reference: Callable[[str], Dataset], tmp_path: Path, root: Path, reference: str
) -> None:
    for path in (reference, reference + "/not/there"):
        with pytest.raises(DatasetRejected, match="not below a dataset root") as caught:
            open_reference(path.format(tmp=tmp_path))
        assert caught.value.param == "training_file"


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("pets", "neither a file id"),
        ("./pets", "neither a file id"),
        ("~/pets", "neither a file id"),
        ("", "neither a file id"),
        ("/data\0/pets", "neither a file id"),
        ("file:///data%00/pets", "neither a file id"),
        ("/data\n/pets", "neither a file id"),
        ("/data/\ud800", "neither a file id"),
        ("/" + "a/" * 3000, "neither a file id"),
        ("file://other-host/data", "no URL of a local file"),
        ("file:///data?x=1", "no URL of a local file"),
        ("http://169.254.169.254/latest/meta-data", "fetches no URLs"),
        ("s3://bucket/pets", "fetches no URLs"),
        ("gopher:x", "fetches no URLs"),
    ],
)
def test_other_references_are_refused_in_words(
    open_reference: Callable[..., Dataset], reference: str, reason: str
) -> None:
    with pytest.raises(DatasetRejected, match=reason) as caught:
        open_reference(reference, param="validation_file")
    assert caught.value.param == "validation_file"


def test_without_roots_no_path_is_read(make_settings: Callable[..., Settings], root: Path, engine: Engine) -> None:
    with reading(engine) as session, pytest.raises(DatasetRejected, match="ALIGNCLIP_DATASET_ROOTS"):
        open_dataset(session, "ada", str(root), make_settings())


def test_what_is_not_there_is_refused(open_reference: Callable[[str], Dataset], root: Path) -> None:
    with pytest.raises(DatasetRejected, match="nothing at"):
        open_reference(f"{root}/cars")


def test_a_link_is_followed_only_within_the_roots(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path
) -> None:
    (root / "out").symlink_to(root.parent / "secret")
    (root / "within").symlink_to(root / "pets")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(DatasetRejected, match="not below a dataset root"):
        open_reference(f"{root}/out/s")
    with pytest.raises(DatasetRejected):
        open_reference(f"{root}/loop")
    assert list_dataset(open_reference(f"{root}/within"), artifacts, settings) == ["cat/1.jpg", "dog/a/1.jpg"]


@pytest.mark.parametrize("kind", ["link to a file", "link to a folder", "dangling link", "pipe"])
def test_a_link_or_device_in_the_folder_is_refused_and_named(
    open_reference: Callable[[str], Dataset],
    artifacts: ArtifactStore,
    settings: Settings,
    root: Path,
    tmp_path: Path,
    kind: str,
) -> None:
    odd = root / "pets/cat/odd.jpg"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(
            {
                "link to a file": root.parent / "secret/s/1.jpg",
                "link to a folder": root.parent / "secret",
                "dangling link": root / "none",
            }[kind]
        )
    dataset = open_reference(f"{root}/pets")
    for attempt in (
        lambda: list_dataset(dataset, artifacts, settings),
        lambda: fetch_dataset(dataset, artifacts, settings, tmp_path / "run" / "dataset"),
    ):
        with pytest.raises(DatasetRejected, match=r"'cat/odd\.jpg' is a link or a device") as caught:
            attempt()
        assert caught.value.param == "training_file"
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_swapped_for_a_link_after_the_check_is_not_read(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path, tmp_path: Path
) -> None:
    datasets = [open_reference(f"{root}/pets"), open_reference(f"{root}/pets/cat")]
    (root / "pets").rename(root / "moved")
    (root / "pets").symlink_to(root.parent / "secret")
    (root.parent / "secret" / "cat").mkdir()
    for dataset in datasets:
        with pytest.raises(DatasetRejected, match="cannot be read"):
            fetch_dataset(dataset, artifacts, settings, tmp_path / "dataset")


def test_a_pipe_or_another_file_in_place_of_an_archive_is_refused(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path
) -> None:
    os.mkfifo(root / "pipe.zip")
    with pytest.raises(DatasetRejected, match="neither a folder nor a file"):
        list_dataset(open_reference(f"{root}/pipe.zip"), artifacts, settings)
    with pytest.raises(DatasetRejected, match="not a zip archive"):
        list_dataset(open_reference(f"{root}/pets/cat/1.jpg"), artifacts, settings)


def test_a_folder_over_the_limits_is_refused(
    open_reference: Callable[[str], Dataset],
    artifacts: ArtifactStore,
    make_settings: Callable[..., Settings],
    root: Path,
    tmp_path: Path,
) -> None:
    dataset = open_reference(f"{root}/pets")
    with pytest.raises(DatasetRejected, match="more than 1 files"):
        list_dataset(dataset, artifacts, make_settings(max_dataset_files=1))
    with pytest.raises(DatasetRejected, match=r"more than 30 bytes; the limit was reached in 'dog/a/1\.jpg'"):
        fetch_dataset(dataset, artifacts, make_settings(max_dataset_bytes=30), tmp_path / "run" / "dataset")
    assert list((tmp_path / "run").iterdir()) == []
    assert len(list_dataset(dataset, artifacts, make_settings(max_dataset_files=2))) == 2


def test_a_name_that_is_no_text_is_refused(
    open_reference: Callable[[str], Dataset], artifacts: ArtifactStore, settings: Settings, root: Path
) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/pets/cat/\xff.jpg"))).touch()
    with pytest.raises(DatasetRejected, match="character that no name may have"):
        list_dataset(open_reference(f"{root}/pets"), artifacts, settings)


@pytest.mark.parametrize(
    ("name", "called"),
    [("pets.tar.gz", "pets"), ("Pets.ZIP", "Pets"), ("rows.jsonl", "rows"), ("pets.v2", "pets.v2"), ("pets", "pets")],
)
def test_a_dataset_is_called_as_its_file_without_the_suffix(name, called):
    assert without_suffix(name) == called
