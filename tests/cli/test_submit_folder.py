"""What of a folder is sent."""

import pytest

from alignclip_core.errors import DatasetInvalid
from cli.submit import paths_to_send


def write(folder, *names, content="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def test_of_class_folders_the_images_are_sent(tmp_path):
    folder = write(tmp_path, "cat/1.jpg", "dog/1.jpg", "notes.txt", ".hidden/x.jpg", ".git")
    assert paths_to_send(folder) == ["cat/1.jpg", "dog/1.jpg"]


def test_images_without_class_folders_are_sent_where_no_class_is_needed(tmp_path):
    folder = write(tmp_path, "1.jpg", "more/2.jpg", ".hidden/x.jpg")
    assert paths_to_send(folder, min_classes=0) == ["1.jpg", "more/2.jpg"]
    with pytest.raises(DatasetInvalid, match="lies in no class folder"):
        paths_to_send(folder)


def test_of_a_folder_with_a_list_everything_visible_is_sent(tmp_path):
    folder = write(tmp_path, "a/1.jpg", "a/2.jpg", ".hidden/x.jpg")
    write(folder, "manifest.csv", content="image,label\na/1.jpg,cat\na/2.jpg,dog\n")
    assert paths_to_send(folder) == ["a/1.jpg", "a/2.jpg", "manifest.csv"]
    write(folder, "manifest.csv", content="image,label\na/9.jpg,cat\n")
    with pytest.raises(DatasetInvalid, match=r"manifest\.csv, line 2: there is no image 'a/9\.jpg'"):
        paths_to_send(folder)


def test_shards_are_sent_unopened(tmp_path):
    assert paths_to_send(write(tmp_path, "pets-0.tar", "pets-1.tar")) == ["pets-0.tar", "pets-1.tar"]
