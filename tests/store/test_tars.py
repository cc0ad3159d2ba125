"""Tar archives as strangers send them."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_iterator

from alignclip_core.dataset.reading import read_dataset
from alignclip_store import shard_files
from alignclip_store.archives import DatasetLimits
from alignclip_store.dataset_files import open_container
from alignclip_store.errors import DatasetRejected
from alignclip_store.shard_files import with_shards

LIMITS = DatasetLimits(max_bytes=1 << 20, max_files=50)
FILES = {"cat/1.jpg": b"cat", "dog/hérisson.jpg": b"d" * 70_000}


def _tar(files: dict[str, bytes], *members: tarfile.TarInfo, mode: str = "w", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return buffer


def _member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def _refused(archive: io.BytesIO, limits: DatasetLimits = LIMITS, name: str = "pets.tar") -> str:
    with pytest.raises(DatasetRejected) as caught:
        open_container(name, archive, limits)
    return caught.value.message


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_is_listed_read_and_unpacked(tmp_path: Path, mode: str, form: int) -> None:
    long = "a" * 120 + "/" + "b" * 120 + ".jpg"
    folders = [_member("./", tarfile.DIRTYPE), _member("./emu", tarfile.DIRTYPE)]
    named = {f"./{name}": content for name, content in FILES.items()} | {long: b"1"}
    archive = _tar(named, *folders, mode=mode, format=form)
    files = open_container("pets.tar", archive, LIMITS, where="/data/pets.tar")
    assert files.sizes == {"cat/1.jpg": 3, "dog/hérisson.jpg": 70_000, long: 1, "emu/": 0}
    for name, content in FILES.items():
        with files.open(name) as opened:
            assert opened.read() == content
    found = files.fetch(tmp_path / "all")
    assert (found / "emu").is_dir()
    assert {name: (found / name).read_bytes() for name in FILES} == FILES
    only = files.fetch(tmp_path / "only", only={"cat/1.jpg"})
    assert [path.name for path in only.rglob("*.*")] == ["1.jpg"]


def test_a_plain_tar_says_where_its_members_lie_and_a_packed_one_cannot() -> None:
    archive = _tar(FILES)
    place = open_container("pets.tar", archive, LIMITS, where="/data/pets.tar").locate("cat/1.jpg")
    assert place is not None
    assert archive.getvalue()[place.offset : place.offset + place.num_bytes] == b"cat"
    assert open_container("pets.tar.gz", _tar(FILES, mode="w:gz"), LIMITS, where="/x").locate("cat/1.jpg") is None


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/etc/passwd", "a\\evil.jpg", "C:/evil.jpg", "a/./b"]
)
def test_a_name_that_leads_out_is_refused_and_named(name: str, mode: str) -> None:
    message = _refused(_tar({"cat/1.jpg": b"1", name: b"evil"}, mode=mode))
    assert "leads out of its folder" in message
    assert repr(name) in message


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_a_link_or_device_is_refused_and_named(kind: bytes) -> None:
    member = _member("cat/odd.jpg", kind, linkname="/etc/passwd")
    assert "'cat/odd.jpg' is a link or a device" in _refused(_tar(FILES, member))


def test_a_file_twice_or_a_file_that_is_a_folder_is_refused() -> None:
    twice = _tar({"cat/1.jpg": b"1"}, _member("cat/1.jpg"))
    assert "'cat/1.jpg' twice" in _refused(twice)
    assert "both as a file and as a folder" in _refused(_tar({"cat": b"1", "cat/1.jpg": b"1"}))


def test_more_members_or_bytes_than_are_allowed_are_refused() -> None:
    many = {f"cat/{number}.jpg": b"" for number in range(60)}
    assert "more than 50 members" in _refused(_tar(many))
    assert "unpacks to more than is allowed; the limit was reached in 'cat/1.jpg'" in _refused(
        _tar({"cat/1.jpg": b"1" * (2 << 20)})
    )


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    member = _member("cat/1.jpg", size=1 << 40)
    header = member.tobuf(tarfile.GNU_FORMAT)
    bomb = io.BytesIO(gzip.compress(header + bytes(1 << 20)))
    assert "the limit was reached in 'cat/1.jpg'" in _refused(bomb, DatasetLimits(max_bytes=1 << 50, max_files=9))


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory_is_refused(kind: bytes) -> None:
    header = _member("x", kind, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
    assert "a header of 8589934592 bytes" in _refused(io.BytesIO(header + bytes(4096)))


def test_a_negative_size_is_refused() -> None:
    header = _member("cat/1.jpg", size=-1024).tobuf(tarfile.GNU_FORMAT)
    assert _refused(io.BytesIO(bytes(_tar(FILES).getvalue()[:1024]) + header + bytes(4096)))


def test_a_tar_that_was_cut_off_is_refused() -> None:
    content = _tar({"cat/1.jpg": b"1" * 100_000}, mode="w:gz").getvalue()
    assert "cannot be read" in _refused(io.BytesIO(content[: len(content) // 2]))
    assert "cannot be read" in _refused(io.BytesIO(_tar({"cat/1.jpg": b"1" * 100_000}).getvalue()[:50_000]))


def test_a_table_alone_is_refused_with_what_to_do() -> None:
    message = _refused(io.BytesIO(b"image,label\n"), name="pets.csv")
    assert "pack it as manifest.csv into one zip" in message
    message = _refused(io.BytesIO(b'{"image": "cat/1.jpg", "label": "cat"}'), name="pets.jsonl")
    assert "write each image into its line of a .jsonl as a data URI" in message


def test_shards_in_a_tar_are_looked_into_and_in_a_zip_only_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = _tar({"0.jpg": b"cat", "0.cls": b"0", "1.jpg": b"dog", "1.cls": b"1"}).getvalue()
    files = {"train/0.tar": shard, "test/0.tar": shard, "classnames.txt": b"cat\ndog\n"}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    for name, container in (("a.tar", _tar(files)), ("a.tar.gz", _tar(files, mode="w:gz")), ("a.zip", packed)):
        with with_shards(open_container(name, container, LIMITS, where="/a.tar"), LIMITS) as found:
            layout = read_dataset(found)
            assert found.open("train/0.tar/1.jpg").read() == b"dog"
        assert [(sample.class_name, sample.split) for sample in layout.samples] == [
            ("cat", "test"),
            ("dog", "test"),
            ("cat", "train"),
            ("dog", "train"),
        ]
    monkeypatch.setattr(shard_files, "MAX_MEMBER_BYTES", len(shard))
    with (
        pytest.raises(DatasetRejected, match="pack them into a tar without compression"),
        with_shards(open_container("a.zip", packed, LIMITS), LIMITS),
    ):
        pass


def test_a_hostile_shard_is_refused_by_its_name() -> None:
    files = {"0.tar": _tar({"../evil.jpg": b"evil"}).getvalue()}
    with (
        pytest.raises(DatasetRejected, match=r"0\.tar: The name '\.\./evil\.jpg' leads out"),
        with_shards(open_container("a.tar", _tar(files), LIMITS), LIMITS),
    ):
        pass


def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "pets-000000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(4):
            part = {"jpg": bytes([number]) * 100, "cls": number % 2, "json": {"domain": "art"}}
            writer.write({"__key__": f"sample{number:06}"} | part)
    with path.open("rb") as file:
        samples = group_by_keys({**member, "__url__": ""} for member in tar_file_iterator(file))
        theirs = [(each["jpg"], each["cls"].decode()) for each in samples]
    with path.open("rb") as file:
        files = open_container(path.name, file, LIMITS)
        layout = read_dataset(files)
        ours = [(files.open(sample.path).read(), sample.class_name) for sample in layout.samples]
    assert ours == theirs
    assert layout.domains == ("art",)
