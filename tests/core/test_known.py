"""Well-known datasets as they are published; torchvision's own classes read the same files as a reference."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from alignclip_core.dataset.files import LocalFiles
from alignclip_core.dataset.layout import list_folder
from alignclip_core.dataset.reading import read_dataset
from alignclip_core.errors import DatasetInvalid


def picture() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def images(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, picture())


def read(folder: Path):
    layout = read_dataset(LocalFiles(folder, list_folder(folder)))
    return {sample.path: (sample.class_name, sample.split) for sample in layout.samples}


def of_split(found, split):
    return {path: label for path, (label, own) in found.items() if own == split}


def paths_and_names(paths, labels, names, folder: Path):
    return {str(Path(path).relative_to(folder)): names[label] for path, label in zip(paths, labels, strict=True)}


def test_oxford_iiit_pet(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    write(folder, images("images/Abyssinian_1.jpg", "images/Abyssinian_2.jpg", "images/american_bulldog_7.jpg"))
    trainval = "Abyssinian_1 1 1 1\namerican_bulldog_7 2 2 1\n"
    write(folder, {"annotations/trainval.txt": trainval, "annotations/test.txt": "Abyssinian_2 1 1 1\n"})
    found = read(folder)
    assert found["images/american_bulldog_7.jpg"] == ("american_bulldog", "train")
    for split, ours in (("trainval", "train"), ("test", "test")):
        reference = datasets.OxfordIIITPet(tmp_path, split)
        names = [name.replace(" ", "_").lower() for name in reference.classes]
        expected = paths_and_names(reference._images, reference._labels, names, folder)
        assert {path: label.lower() for path, label in of_split(found, ours).items()} == expected


def test_food101(tmp_path):
    folder = write(tmp_path / "food-101", images("images/pizza/1.jpg", "images/apple_pie/2.jpg", "images/pizza/3.jpg"))
    lists = {"train": {"pizza": ["pizza/1"], "apple_pie": ["apple_pie/2"]}, "test": {"pizza": ["pizza/3"]}}
    write(folder, {f"meta/{name}.json": json.dumps(content) for name, content in lists.items()})
    found = read(folder)
    for split in ("train", "test"):
        reference = datasets.Food101(tmp_path, split)
        expected = paths_and_names(reference._image_files, reference._labels, reference.classes, folder)
        assert of_split(found, split) == expected


def test_fgvc_aircraft(tmp_path):
    folder = tmp_path / "fgvc-aircraft-2013b"
    write(folder / "data", images("images/0034309.jpg", "images/0034958.jpg", "images/1037511.jpg"))
    lists = {"train": "0034309 Boeing 707-320\n", "val": "0034958 A300B4\n", "test": "1037511 Boeing 707-320\n"}
    write(folder / "data", {f"images_variant_{name}.txt": content for name, content in lists.items()})
    write(folder / "data", {"variants.txt": "A300B4\nBoeing 707-320\n"})
    found = read(folder)
    for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
        reference = datasets.FGVCAircraft(tmp_path, split)
        expected = paths_and_names(reference._image_files, reference._labels, reference.classes, folder)
        assert of_split(found, ours) == expected


def test_dtd(tmp_path):
    folder = tmp_path / "dtd" / "dtd"
    write(folder, images("images/banded/banded_1.jpg", "images/dotted/dotted_1.jpg", "images/dotted/dotted_2.jpg"))
    lists = {"train": "banded/banded_1.jpg\n", "val": "dotted/dotted_1.jpg\n", "test": "dotted/dotted_2.jpg\n"}
    write(folder, {f"labels/{name}{n}.txt": content for name, content in lists.items() for n in (1, 2)})
    found = read(folder)
    for split, ours in (("train", "train"), ("val", "validation"), ("test", "test")):
        reference = datasets.DTD(tmp_path, split)
        assert of_split(found, ours) == paths_and_names(
            reference._image_files, reference._labels, reference.classes, folder
        )


def test_sun397(tmp_path):
    folder = write(tmp_path / "SUN397", images("a/abbey/sun_a.jpg", "a/apartment_building/outdoor/sun_b.jpg"))
    write(folder, {"ClassName.txt": "/a/abbey\n/a/apartment_building/outdoor\n"})
    found = read(folder)
    assert {Path(path).name: label for path, (label, _) in found.items()} == {
        "sun_a.jpg": "abbey",
        "sun_b.jpg": "outdoor apartment_building",
    }
    assert set(found) == {str(path.relative_to(folder)) for path in datasets.SUN397(tmp_path)._image_files}


def test_caltech101_and_eurosat_are_class_folders(tmp_path):
    folder = write(tmp_path / "caltech101/101_ObjectCategories", images("Faces/image_0001.jpg", "ant/image_0001.jpg"))
    write(folder, images("BACKGROUND_Google/image_0001.jpg"))
    assert set(read(folder)) == {"Faces/image_0001.jpg", "ant/image_0001.jpg"}
    assert datasets.Caltech101(tmp_path).categories == ["Faces", "ant"]
    folder = write(tmp_path / "eurosat/2750", images("Forest/Forest_1.jpg", "River/River_1.jpg"))
    assert set(read(folder)) == {str(Path(path).relative_to(folder)) for path, _ in datasets.EuroSAT(tmp_path).samples}


def test_flowers102(tmp_path):
    folder = write(tmp_path / "flowers-102", images(*(f"jpg/image_{number:05}.jpg" for number in (1, 2, 3, 4))))
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 102]])})
    savemat(folder / "setid.mat", {"trnid": [[1, 2]], "valid": [[3]], "tstid": [[4]]})
    names = datasets.Flowers102.classes
    assert read(folder) == {
        "jpg/image_00001.jpg": (names[0], "train"),
        "jpg/image_00002.jpg": (names[1], "train"),
        "jpg/image_00003.jpg": (names[0], "validation"),
        "jpg/image_00004.jpg": (names[101], "test"),
    }


def test_stanford_cars(tmp_path):
    folder = write(tmp_path / "stanford_cars", images("cars_train/1.jpg", "cars_train/2.jpg"))
    write(folder, images("cars_test/1.jpg", "cars_test/2.jpg"))
    (folder / "devkit").mkdir()
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([["AM General Hummer", "Acura RL"]], object)})

    def annotations(*rows):
        kind = [("fname", object), ("class", object)]
        return {"annotations": np.array([[*rows]], dtype=kind)}

    savemat(folder / "devkit/cars_train_annos.mat", annotations(("1.jpg", 1), ("2.jpg", 2)))
    savemat(folder / "cars_test_annos_withlabels.mat", annotations(("1.jpg", 2), ("2.jpg", 1)))
    found = read(folder)
    for split in ("train", "test"):
        reference = datasets.StanfordCars(tmp_path, split)
        expected = {str(Path(path).relative_to(folder)): reference.classes[label] for path, label in reference._samples}
        assert of_split(found, split) == expected


def test_coops_split_file(tmp_path):
    folder = write(tmp_path, images("101_ObjectCategories/ant/1.jpg", "101_ObjectCategories/bass/2.jpg", "x/ant/3.jpg"))
    write(folder, images("101_ObjectCategories/ant/3.jpg"))
    content = {
        "train": [["ant/1.jpg", 0, "ant"]],
        "val": [["bass/2.jpg", 1, "bass"]],
        "test": [["ant/3.jpg", 0, "ant"]],
    }
    write(folder, {"split_zhou_Caltech101.json": json.dumps(content)})
    assert read(folder) == {
        "101_ObjectCategories/ant/1.jpg": ("ant", "train"),
        "101_ObjectCategories/bass/2.jpg": ("bass", "validation"),
        "101_ObjectCategories/ant/3.jpg": ("ant", "test"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": [["../x.jpg", 0, "ant"]]}, r"split_zhou_A\.json, train\[0\]: there is no image '\.\./x\.jpg'"),
        ({"train": [["ant/1.jpg", 0]]}, r"train\[0\]: wanted \["),
        ({"train": [["ant/1.jpg", 0, " "]]}, r"train\[0\]: label is empty"),
        ({"val": [["ant/1.jpg", 0, "ant"], ["ant/9.jpg", 0, "ant"]]}, r"val\[1\]: there is no image 'ant/9\.jpg'"),
        ([], "wanted"),
    ],
)
def test_what_is_wrong_in_a_split_file_is_named(tmp_path, content, message):
    write(tmp_path, images("ant/1.jpg", "bass/1.jpg") | {"split_zhou_A.json": json.dumps(content)})
    with pytest.raises(DatasetInvalid, match=message):
        read(tmp_path)


def test_lists_that_are_damaged_missing_or_of_two_datasets_are_refused(tmp_path):
    write(tmp_path / "a", images("jpg/image_00001.jpg") | {"setid.mat": b"none", "imagelabels.mat": b"none"})
    with pytest.raises(DatasetInvalid, match=r"imagelabels\.mat: it is no MATLAB file"):
        read(tmp_path / "a")
    write(tmp_path / "b", images("images/x/1.jpg") | {"labels/train1.txt": "x/1.jpg"})
    with pytest.raises(DatasetInvalid, match=r"'labels/val1\.txt' is missing beside 'labels/train1\.txt'"):
        read(tmp_path / "b")
    write(tmp_path / "c", {"x/split_zhou_X.json": "{}", "y/split_zhou_Y.json": "{}"})
    with pytest.raises(DatasetInvalid, match="lists of two datasets"):
        read(tmp_path / "c")
    write(tmp_path / "d", images("1.jpg") | {"split_zhou_X.json": "{"})
    with pytest.raises(DatasetInvalid, match=r"split_zhou_X\.json: it is no JSON"):
        read(tmp_path / "d")
