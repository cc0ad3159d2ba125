from pathlib import Path

import pytest

from alignclip_core.dataset.files import LocalFiles
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.dataset.samples import Sample
from alignclip_core.errors import DatasetInvalid


def test_class_folders_are_read():
    layout = read_layout(["dog/2.jpg", "cat/1.PNG", "dog/1.jpeg"])
    assert layout.class_names == ("cat", "dog")
    assert layout.domains == ()
    assert layout.samples == (Sample("cat/1.PNG", "cat"), Sample("dog/1.jpeg", "dog"), Sample("dog/2.jpg", "dog"))


def test_domain_folders_are_read_and_a_class_may_be_absent_from_one():
    layout = read_layout(["photo/cat/1.jpg", "photo/dog/1.jpg", "art/cat/1.jpg"])
    assert layout.domains == ("art", "photo")
    assert layout.class_names == ("cat", "dog")
    assert layout.samples[0] == Sample("art/cat/1.jpg", "cat", "art")


@pytest.mark.parametrize("top", ["pets/", "a/b/"])
def test_a_folder_that_holds_everything_is_stripped_but_paths_stay_whole(top):
    layout = read_layout([f"{top}cat/1.jpg", f"{top}dog/1.jpg"])
    assert layout.class_names == ("cat", "dog")
    assert layout.domains == ()
    assert layout.samples[0].path == f"{top}cat/1.jpg"


def test_a_top_folder_above_domains_is_stripped():
    layout = read_layout(["pacs/art/cat/1.jpg", "pacs/photo/cat/1.jpg", "pacs/photo/dog/1.jpg"])
    assert layout.domains == ("art", "photo")


def test_hidden_files_and_archive_litter_are_ignored_and_other_files_listed():
    layout = read_layout(
        ["__MACOSX/cat/._1.jpg", ".git/x.png", "cat/.thumb.jpg", "cat/1.jpg", "dog/1.jpg", "labels.csv", "dog/note.txt"]
    )
    assert [sample.path for sample in layout.samples] == ["cat/1.jpg", "dog/1.jpg"]
    assert layout.ignored == ("dog/note.txt", "labels.csv")


def test_masks_are_neither_images_nor_other_files():
    layout = read_layout(["cat/1.jpg", "cat/1.mask.png", "dog/1.png", "dog/1.MASK.PNG"])
    assert [sample.path for sample in layout.samples] == ["cat/1.jpg", "dog/1.png"]
    assert layout.ignored == ()


@pytest.mark.parametrize("paths", [[], ["readme.txt"], ["cat/"], ["cat/1.tiff", "dog/1.heic"]])
def test_no_image_at_all_is_refused(paths):
    with pytest.raises(DatasetInvalid, match=r"no image.*class/image or domain/class/image"):
        read_layout(paths)


def test_one_class_only_is_named():
    with pytest.raises(DatasetInvalid, match="one class only, 'cat'"):
        read_layout(["cat/1.jpg", "cat/2.jpg"])
    with pytest.raises(DatasetInvalid, match="one class only, 'cat'"):
        read_layout(["top/cat/1.jpg", "top/cat/2.jpg"])


@pytest.mark.parametrize("paths", [["1.jpg", "b/2.jpg"], ["1.jpg"], ["a/b/c/1.jpg", "a/d/c/2.jpg", "e/f/g/3.jpg"]])
def test_folders_that_name_no_class_are_no_fault_where_none_is_needed(paths):
    layout = read_layout([*paths, "notes.txt"], min_classes=0)
    assert layout.samples == tuple(Sample(path, "") for path in paths)
    assert layout.ignored == ("notes.txt",)
    with pytest.raises(DatasetInvalid):
        read_layout(paths, min_classes=1)
    with pytest.raises(DatasetInvalid, match="no image"):
        read_layout(["notes.txt"], min_classes=0)


def test_classes_that_are_named_count_also_where_none_is_needed():
    layout = read_layout(["cat/1.jpg", "dog/"], min_classes=0)
    assert layout.samples == (Sample("cat/1.jpg", "cat"),)


def test_one_class_suffices_where_the_caller_says_so():
    assert read_layout(["cat/1.jpg"], min_classes=1).class_names == ("cat",)


@pytest.mark.parametrize("empty", ["bird/", "bird/readme.txt", "bird/1.tiff"])
def test_a_class_folder_without_images_is_named(empty):
    with pytest.raises(DatasetInvalid, match=r"'bird' holds no image .*\.jpg"):
        read_layout(["cat/1.jpg", "dog/1.jpg", empty])


def test_an_empty_class_folder_below_a_stripped_top_is_named():
    with pytest.raises(DatasetInvalid, match="'bird' holds no image"):
        read_layout(["pets/", "pets/cat/", "pets/cat/1.jpg", "pets/dog/1.jpg", "pets/bird/"])


def test_a_class_without_images_in_any_domain_is_named():
    with pytest.raises(DatasetInvalid, match="'art/bird' holds no image"):
        read_layout(["photo/cat/1.jpg", "photo/dog/1.jpg", "art/cat/1.jpg", "art/bird/"])


def test_a_class_that_is_empty_in_one_domain_but_not_in_another_is_fine():
    assert read_layout(["photo/cat/1.jpg", "photo/dog/1.jpg", "art/cat/1.jpg", "art/dog/"]).class_names == (
        "cat",
        "dog",
    )


def test_an_empty_domain_folder_is_named():
    with pytest.raises(DatasetInvalid, match="Domain folder 'sketch' holds no image"):
        read_layout(["photo/cat/1.jpg", "photo/dog/1.jpg", "art/cat/1.jpg", "sketch/cat/"])


def test_mixed_depth_names_one_path_of_each():
    with pytest.raises(DatasetInvalid, match=r"mixed depth.*'cat/1.jpg'.*'photo/dog/1.jpg'"):
        read_layout(["cat/1.jpg", "photo/dog/1.jpg"])


def test_an_image_beside_the_folders_is_named():
    with pytest.raises(DatasetInvalid, match=r"'stray.jpg' lies in no class folder"):
        read_layout(["stray.jpg", "cat/1.jpg", "dog/1.jpg"])


def test_folders_too_deep_are_refused():
    with pytest.raises(DatasetInvalid, match="3 folders deep"):
        read_layout(["a/b/cat/1.jpg", "x/b/dog/1.jpg"])


def test_a_folder_on_disk_is_listed_with_its_empty_folders(tmp_path):
    for folder in ("cat", "dog", "bird"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    (tmp_path / "dog" / "1.jpg").touch()
    assert list_folder(tmp_path) == ["bird/", "cat/1.jpg", "dog/1.jpg"]
    with pytest.raises(DatasetInvalid, match="'bird' holds no image"):
        read_layout(list_folder(tmp_path))


def test_upper_folders_that_are_called_train_and_test_are_splits():
    layout = read_layout(["top/train/cat/1.jpg", "top/val/cat/2.jpg", "top/test/dog/3.jpg", "top/train/dog/4.jpg"])
    assert layout.domains == ()
    assert {sample.path.split("/")[1]: sample.split for sample in layout.samples} == {
        "train": "train",
        "val": "validation",
        "test": "test",
    }


def test_a_domain_beside_a_folder_called_test_stays_a_domain():
    assert read_layout(["train/cat/1.jpg", "art/dog/1.jpg"]).domains == ("art", "train")
    assert read_layout(["test/cat/1.jpg", "test/dog/1.jpg", "val/dog/1.jpg"]).domains == ("test", "val")


def test_a_few_numbered_folders_are_not_those_of_imagenet_v2():
    few = read_dataset(LocalFiles(Path("nowhere"), [f"digits/{number}/1.jpg" for number in range(10)]))
    assert few.class_names == tuple("0123456789")
