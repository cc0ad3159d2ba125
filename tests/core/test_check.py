import os

import pytest
from PIL import Image

from alignclip_core.dataset.check import check_images
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.images import ImageLimits


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (30, 20), "red").save(tmp_path / name / f"{i}.png")
    return tmp_path


def samples_of(folder):
    return read_layout(list_folder(folder)).samples


def test_good_images_give_an_empty_list(folder):
    assert check_images(folder, samples_of(folder)) == []


def test_bad_images_are_named_with_their_reasons_in_order(folder):
    (folder / "dog" / "0.png").write_bytes(b"no image")
    content = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (200, 200)).save(folder / "cat" / "4.png")
    bad = check_images(folder, samples_of(folder), ImageLimits(max_pixels=10_000))
    assert [image.path for image in bad] == ["cat/1.png", "cat/4.png", "dog/0.png"]
    assert "cut off" in bad[0].reason
    assert "200 x 200" in bad[1].reason
    assert "no image" in bad[2].reason


def test_a_missing_file_and_one_over_the_limit_are_bad(folder):
    samples = samples_of(folder)
    (folder / "cat" / "0.png").unlink()
    (folder / "dog" / "4.png").write_bytes(os.urandom(3000))
    bad = check_images(folder, samples, ImageLimits(max_bytes=2000))
    assert [(image.path, image.reason[:20]) for image in bad] == [
        ("cat/0.png", "The file cannot be r"),
        ("dog/4.png", "The image has 3,000 "),
    ]


def test_progress_counts_up_to_all(folder):
    told = []
    check_images(folder, samples_of(folder) * 60, on_progress=lambda checked, total: told.append((checked, total)))
    assert told == [(256, 600), (512, 600), (600, 600)]


def test_what_progress_raises_ends_the_check(folder):
    def stop(checked, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_images(folder, samples_of(folder), on_progress=stop)
