"""What classify reads and writes, apart from the service."""

import pytest

from cli.classify import BATCH_IMAGES, batches, find_images, safe_cell
from cli.errors import CliError


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0"])
def test_cell_that_begins_a_formula_becomes_text(text):
    assert safe_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["cat", "a=b", "", "'=1", "ünï -1"])
def test_other_cells_stay_as_they_are(text):
    assert safe_cell(text) == text


def test_folders_give_their_visible_images_and_files_are_taken_as_they_are(tmp_path):
    for name in ("b.JPG", "a/c.png", "notes.txt", ".hidden.png", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images([tmp_path]) == [tmp_path / "a/c.png", tmp_path / "b.JPG"]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]


def test_missing_and_empty_places_are_named(tmp_path):
    with pytest.raises(CliError, match="nowhere"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(CliError, match="no image in"):
        find_images([tmp_path])


def test_batches_are_bounded_by_count_and_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("cli.classify.BATCH_BYTES", 100)
    paths = [tmp_path / f"{number}.png" for number in range(BATCH_IMAGES + 5)]
    for path in paths:
        path.write_bytes(b"x")
    paths[-1].write_bytes(b"x" * 200)
    found = list(batches(paths))
    assert [len(batch) for batch in found] == [BATCH_IMAGES, 4, 1]
    assert [path for batch in found for path, _ in batch] == paths
