"""Zip archives as strangers send them."""

import io
import stat
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile, ZipInfo

import pytest

from alignclip_store import archives
from alignclip_store.archives import DatasetLimits, archive_sizes, unpack_archive
from alignclip_store.errors import DatasetRejected

LIMITS = DatasetLimits(max_bytes=1 << 20, max_files=100)
Members = Iterable[tuple[str | ZipInfo, bytes]]


def _zip(members: Members, compression: int = ZIP_DEFLATED) -> io.BytesIO:
    archive = io.BytesIO()
    with ZipFile(archive, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return archive


def _member(name: str, mode: int = 0) -> ZipInfo:
    member = ZipInfo("placeholder")
    member.filename = name  # the constructor would tidy it
    member.external_attr = mode << 16
    return member


def _refused(archive: io.BytesIO, folder: Path, limits: DatasetLimits = LIMITS) -> str:
    """What `unpack_archive` says; nothing may be left of the attempt."""
    with pytest.raises(DatasetRejected) as caught:
        unpack_archive(archive, folder / "target", limits)
    assert list(folder.iterdir()) == []
    return caught.value.message


def test_an_archive_is_listed_and_unpacked(tmp_path: Path) -> None:
    archive = _zip([("pets/", b""), ("pets/cat/1.jpg", b"cat"), ("pets/hérisson/1.jpg", b"h" * 70_000), ("dog/", b"")])
    assert list(archive_sizes(archive, LIMITS)) == ["pets/", "pets/cat/1.jpg", "pets/hérisson/1.jpg", "dog/"]
    target = unpack_archive(archive, tmp_path / "below" / "target", LIMITS)
    assert (target / "pets/cat/1.jpg").read_bytes() == b"cat"
    assert (target / "pets/hérisson/1.jpg").read_bytes() == b"h" * 70_000
    assert (target / "dog").is_dir(), "that a class has no images must be seen after unpacking, too"
    assert len(list(target.rglob("*"))) == 6


def test_only_the_files_that_were_asked_for_are_unpacked(tmp_path: Path) -> None:
    archive = _zip([("a/1.jpg", b"1"), ("a/2.jpg", b"2"), ("b/1.jpg", b"3")])
    seen: list[int] = []
    target = unpack_archive(
        archive, tmp_path / "target", LIMITS, only={"a/2.jpg", "b/1.jpg"}, on_file=lambda: seen.append(1)
    )
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*.jpg")) == ["a/2.jpg", "b/1.jpg"]
    assert len(seen) == 2


def test_unpacking_can_be_stopped_and_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_archive(_zip([("a/1.jpg", b"1")]), tmp_path / "target", LIMITS, on_file=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PK", b"\xff\xd8\xff\xe0 a photograph", b"PK\x03\x04" + b"\0" * 100])
def test_what_is_no_zip_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    assert "not a zip archive; wanted a .zip of class/image" in _refused(io.BytesIO(content), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "a/../../evil.jpg",
        "a/..",
        "/etc/passwd",
        "//host/share",
        "a//b.jpg",
        "./a.jpg",
        "a/./b.jpg",
        "..\\evil.jpg",
        "a\\..\\..\\evil.jpg",
        "C:\\evil.jpg",
        "C:/evil.jpg",
        "../evil/",
    ],
)
def test_a_name_that_leads_out_is_refused_and_named(tmp_path: Path, name: str) -> None:
    archive = _zip([("cat/1.jpg", b"1"), (_member(name), b"evil")])
    assert repr(name.removesuffix("/")) in _refused(archive, tmp_path)
    with pytest.raises(DatasetRejected, match="leads out"):
        archive_sizes(archive, LIMITS)


@pytest.mark.parametrize("character", ["\n", "\x1b", "\x7f", "\x85"])
def test_a_control_character_in_a_name_is_refused(tmp_path: Path, character: str) -> None:
    assert "character that no name may have" in _refused(_zip([(_member(f"cat/{character}.jpg"), b"")]), tmp_path)


def test_a_name_that_ends_at_a_nul_for_some_readers_is_refused(tmp_path: Path) -> None:
    archive = io.BytesIO(_zip([("cat/1.jpgXevil", b"1")]).getvalue().replace(b"1.jpgX", b"1.jpg\0"))
    assert "character that no name may have" in _refused(archive, tmp_path)


@pytest.mark.parametrize("name", ["é" * 128, "/".join(["x" * 200] * 6), "/".join("x" * 17)])
def test_a_name_too_long_for_a_file_system_is_refused(tmp_path: Path, name: str) -> None:
    assert "too long" in _refused(_zip([(name, b"")]), tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_a_link_or_device_is_refused_and_named(tmp_path: Path, kind: int) -> None:
    archive = _zip([(_member("cat/link.jpg", kind | 0o777), b"/etc/passwd")])
    assert "'cat/link.jpg' is a link or a device" in _refused(archive, tmp_path)


def test_plain_files_and_folders_with_unix_modes_are_taken(tmp_path: Path) -> None:
    archive = _zip([(_member("cat/", stat.S_IFDIR | 0o755), b""), (_member("cat/1.jpg", stat.S_IFREG | 0o4777), b"1")])
    target = unpack_archive(archive, tmp_path / "target", LIMITS)
    assert (target / "cat/1.jpg").stat().st_mode & 0o7111 == 0, "the modes of the archive are not taken over"


def test_an_encrypted_member_is_refused_and_named(tmp_path: Path) -> None:
    content = bytearray(_zip([("cat/1.jpg", b"1")]).getvalue())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    assert "'cat/1.jpg' is encrypted" in _refused(io.BytesIO(content), tmp_path)


def test_an_unusual_compression_is_refused(tmp_path: Path) -> None:
    assert "unusual way" in _refused(_zip([("cat/1.jpg", b"1")], ZIP_LZMA), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_for_two_members_is_refused(tmp_path: Path) -> None:
    assert "'cat/1.jpg' twice" in _refused(_zip([("cat/1.jpg", b"1"), ("cat/1.jpg", b"2")]), tmp_path)
    archive = _zip([("cat/1.jpg", b"1"), ("cat/1.jpg/deep/2.jpg", b"2")])
    assert "'cat/1.jpg' both as a file and as a folder" in _refused(archive, tmp_path)
    archive = _zip([("cat/1.jpg", b"1"), ("cat/1.jpg/", b"")])
    assert "'cat/1.jpg' both as a file and as a folder" in _refused(archive, tmp_path)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    archive = _zip((f"cat/{number}.jpg", b"") for number in range(101))
    assert "more than 100 members" in _refused(archive, tmp_path)


def test_a_huge_table_of_contents_is_refused_before_it_is_read(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        largest = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.largest = max(self.largest, len(content))
            return content

    archive = Counting(_zip((f"{number:06}{'x' * 200}", b"") for number in range(6000)).getvalue())
    assert "more than 100 members" in _refused(archive, tmp_path)
    assert archive.largest < 200_000


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    archive = _zip([("cat/1.jpg", b"x" * (1 << 19)), ("cat/2.jpg", b"x" * (1 << 19) + b"x")])
    assert "unpacks to 1048577 bytes; at most 1048576" in _refused(archive, tmp_path)


def test_a_bomb_is_stopped_by_the_bytes_that_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "RATIO_COUNTS_FROM_BYTES", 1 << 20)
    archive = _zip([("cat/1.jpg", b"\0" * (4 << 20))])
    limits = DatasetLimits(max_bytes=1 << 30, max_files=10)
    assert "more than 200 times its size; the limit was reached in 'cat/1.jpg'" in _refused(archive, tmp_path, limits)


@pytest.mark.parametrize("forged_bytes", [1, (4 << 20) - 1])
def test_a_member_that_is_larger_than_it_says_is_refused(tmp_path: Path, forged_bytes: int) -> None:
    archive = _forge_sizes(_zip([("cat/1.jpg", b"\0" * (4 << 20))]), forged_bytes)
    assert "damaged at 'cat/1.jpg'" in _refused(archive, tmp_path, DatasetLimits(max_bytes=8 << 20, max_files=10))


def test_a_member_that_is_smaller_than_it_says_is_refused(tmp_path: Path) -> None:
    archive = _forge_sizes(_zip([("cat/1.jpg", b"\0" * 1000)]), 2000)
    assert "damaged at 'cat/1.jpg'" in _refused(archive, tmp_path)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_damaged_member_is_refused_and_named(tmp_path: Path, share: float) -> None:
    content = bytearray(_zip([("cat/1.jpg", bytes(range(256)) * 200)]).getvalue())
    place = 40 + int((content.index(b"PK\x01\x02") - 40) * share)
    content[place : place + 4] = b"\xff\xff\xff\xff"
    assert "damaged at 'cat/1.jpg'" in _refused(io.BytesIO(content), tmp_path)


def test_an_archive_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    content = _zip((f"cat/{number}.jpg", b"x" * 100) for number in range(20)).getvalue()
    assert "zip archive" in _refused(io.BytesIO(content[:-30]), tmp_path)


def test_an_archive_within_the_archive_stays_packed(tmp_path: Path) -> None:
    inner = _zip([("../evil.jpg", b"evil")]).getvalue()
    target = unpack_archive(_zip([("cat/inner.zip", inner)]), tmp_path / "target", LIMITS)
    assert [path.name for path in target.rglob("*") if path.is_file()] == ["inner.zip"]


def test_random_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    """Every byte of a small archive, changed one at a time: nothing but a refusal may be raised."""
    content = _zip([("cat/1.jpg", b"hello hello hello"), ("dog/1.jpg", b"wau")]).getvalue()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        _refused_or_below(io.BytesIO(changed), tmp_path / str(place))
        with tempfile.TemporaryFile() as file:  # which raises other errors than BytesIO
            file.write(changed)
            _refused_or_below(file, tmp_path / f"file-{place}")


def _refused_or_below(archive: IO[bytes], folder: Path) -> None:
    folder.mkdir()
    try:
        unpack_archive(archive, folder / "target", LIMITS)
    except DatasetRejected:
        assert list(folder.iterdir()) == []
    assert {path.name for path in folder.iterdir()} <= {"target"}


def _forge_sizes(archive: io.BytesIO, num_bytes: int) -> io.BytesIO:
    """The same archive, whose only member says that it has `num_bytes`."""
    content = bytearray(archive.getvalue())
    struct.pack_into("<I", content, 22, num_bytes)
    struct.pack_into("<I", content, content.index(b"PK\x01\x02") + 24, num_bytes)
    return io.BytesIO(content)
