"""A dataset with planted faults: each is found and named; a clean one has none."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset import looks
from alignclip_core.dataset.duplicates import near_duplicates
from alignclip_core.dataset.fingerprint import part_of_each
from alignclip_core.dataset.listing import DatasetFolder, read_folder
from alignclip_core.dataset.looks import checked_samples, look_at_images
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.dataset_report import Judge, report_dataset, report_folder
from alignclip_core.finished_model import load_base_model
from alignclip_core.label_doubts import (
    NEIGHBOUR_TEMPERATURE,
    NUM_NEIGHBOURS,
    find_alike_names,
    find_doubted_labels,
    judge_labels,
)

COLOURS = {"blue": 2, "green": 1, "red": 0}  # class to the channel in which its pictures are bright


def picture(colour: str, number: int, size: int = 96) -> Image.Image:
    """Blurred noise in one colour: no two alike."""
    random = np.random.default_rng([COLOURS[colour], number])
    coarse = Image.fromarray(random.integers(0, 160, (7, 7), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    pixels[..., COLOURS[colour]] = np.asarray(coarse) + 95
    return Image.fromarray(pixels)


def save(file, image: Image.Image, quality: int = 95) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=quality)


@pytest.fixture
def folder(tmp_path):
    """A clean dataset: three classes of twelve pictures."""
    for colour in COLOURS:
        for number in range(12):
            save(tmp_path / "data" / colour / f"{number:02d}.jpg", picture(colour, number))
    return tmp_path / "data"


def by_colour(pictures) -> torch.Tensor:
    """Features of a judge that knows colours: the mean of each channel, at unit length."""
    means = torch.tensor(np.array([np.asarray(each, dtype=np.float32).mean((0, 1)) for each in pictures]))
    return torch.nn.functional.normalize(means, dim=1)


JUDGE = Judge(
    class_embeddings=torch.eye(3)[[COLOURS[name] for name in COLOURS]], image_features=by_colour, logit_scale=50.0
)


def report(folder, validation=None, **fields) -> dict:
    layout = read_folder(folder)
    names = fields.pop("class_names", {name: name for name in layout.class_names})
    config = FinetuneConfig(base_model="m", class_names=names, **fields)
    held_out = (validation, read_folder(validation, min_classes=1)) if validation else None
    return report_dataset(folder, layout, config, JUDGE, validation=held_out)


def findings(folder, **fields) -> dict:
    return {finding["code"]: finding for finding in report(folder, **fields)["findings"]}


def one_of_each(folder, *wanted, **fields) -> tuple[str, ...]:
    """A path of each of these parts of the split, all blue."""
    names = {name: name for name in COLOURS}
    split = split_dataset(read_folder(folder), FinetuneConfig(base_model="m", class_names=names, **fields))
    parts = {path: part for path, part in part_of_each(split).items() if path.startswith("blue")}
    return tuple(next(path for path, own in parts.items() if own == part) for part in wanted)


def train_and_validation(folder) -> tuple[str, ...]:
    return one_of_each(folder, "train", "validation")


def test_a_clean_dataset_is_counted_and_has_no_finding(folder):
    found = report(folder)
    assert found["findings"] == []
    assert (found["num_images"], found["num_checked"]) == (36, 36)
    assert found["classes"][0] == {"name": "blue", "display_name": "blue", "num_images": 12}
    assert {part["name"]: part["num_images"] for part in found["splits"]} == {"train": 30, "validation": 6}
    assert found["sizes"]["width"] == {"min": 96, "median": 96, "max": 96}
    assert found["similarity"]["labels"] == list(COLOURS)
    assert len(found["fingerprint"]) == 64


def test_images_that_do_not_decode_are_fatal_unless_they_may_be_left_out(folder):
    (folder / "red" / "text.jpg").write_bytes(b"no image")
    content = (folder / "red" / "00.jpg").read_bytes()
    (folder / "red" / "cut.jpg").write_bytes(content[: len(content) // 2])
    found = findings(folder)["image_unreadable"]
    assert found["severity"] == "fatal"
    assert found["paths"] == ["red/cut.jpg", "red/text.jpg"]
    assert "damaged or cut off" in found["message"]
    assert findings(folder, skip_bad_images=True)["image_unreadable"]["severity"] == "warning"


def test_a_copy_that_trains_and_validates_is_a_leak(folder):
    trains, validates = train_and_validation(folder)
    (folder / validates).write_bytes((folder / trains).read_bytes())
    found = findings(folder)
    assert found.keys() == {"duplicate_across_splits"}
    assert found["duplicate_across_splits"]["paths"] == sorted([trains, validates])
    assert "parts of the split: 1 in train and validation." in found["duplicate_across_splits"]["message"]


SPLITS = {
    "by the seed": {"seed": 5},
    "by a share": {"seed": 2, "test_fraction": 0.3},
    "few shots": {"seed": 1, "num_shots": 3, "test_fraction": 0.3},
}


@pytest.mark.parametrize("fields", SPLITS.values(), ids=SPLITS)
def test_copies_between_any_two_parts_of_the_split_that_a_job_would_make_are_leaks(folder, fields):
    used = ("train", "validation", "test_images") if "test_fraction" in fields else ("train", "validation")
    trains, *others = one_of_each(folder, *used, **fields)
    for number, other in enumerate(others):  # each a copy of another one that takes another part
        (folder / other).write_bytes((folder / (trains, *others)[number]).read_bytes())
    found = findings(folder, **fields)
    (leak,) = [one for code, one in found.items() if code not in ("class_small",)]
    assert (leak["code"], leak["paths"]) == ("duplicate_across_splits", sorted([trains, *others]))
    assert f"1 in {' and '.join(used)}." in leak["message"]


def test_a_copy_between_the_datasets_own_validation_and_test_images_is_a_leak(tmp_path):
    for part, first in (("train", 0), ("val", 20), ("test", 40)):
        for colour in COLOURS:
            for number in range(first, first + 6):
                save(tmp_path / part / colour / f"{number}.jpg", picture(colour, number))
    (tmp_path / "test/red/copy.jpg").write_bytes((tmp_path / "val/red/20.jpg").read_bytes())
    save(tmp_path / "test/blue/again.jpg", Image.open(tmp_path / "val/blue/21.jpg"), quality=60)
    found = findings(tmp_path)
    assert found.keys() == {"duplicate_across_splits", "near_duplicate_across_splits"}
    assert found["duplicate_across_splits"]["paths"] == ["test/red/copy.jpg", "val/red/20.jpg"]
    assert "1 in validation and test_images." in found["duplicate_across_splits"]["message"]
    assert found["near_duplicate_across_splits"]["paths"] == ["test/blue/again.jpg", "val/blue/21.jpg"]


def test_a_copy_of_an_image_that_takes_no_part_is_no_leak(folder):
    trains, unused = one_of_each(folder, "train", "unused", num_shots=3)
    (folder / unused).write_bytes((folder / trains).read_bytes())
    assert findings(folder, num_shots=3).keys() == {"duplicate"}


def test_a_validation_set_of_its_own_is_looked_at_beside_the_dataset(folder, tmp_path):
    given = tmp_path / "given"
    save(given / "red/00.jpg", picture("red", 500))
    (given / "blue").mkdir()
    (given / "blue/00.jpg").write_bytes((folder / "blue/03.jpg").read_bytes())
    (given / "blue/01.jpg").write_bytes(b"no image")
    made = report(folder, given)
    assert {part["name"]: part["num_images"] for part in made["splits"]} == {"train": 36, "validation": 3}
    found = {finding["code"]: finding for finding in made["findings"]}
    assert found["image_unreadable"]["paths"] == ["validation_file/blue/01.jpg"]
    assert found["duplicate_across_splits"]["paths"] == ["blue/03.jpg", "validation_file/blue/00.jpg"]
    assert (made["num_images"], made["num_checked"], len(made["fingerprint"])) == (36, 36, 64)


def test_what_was_seen_in_time_is_reported(folder, monkeypatch):
    monkeypatch.setattr(looks, "CHUNK", 9)
    layout = read_folder(folder)
    config = FinetuneConfig(base_model="m", class_names={name: name for name in COLOURS})
    told = []
    found = report_dataset(
        folder, layout, config, JUDGE, max_seconds=0, on_progress=lambda *progress: told.append(progress)
    )
    assert (found["num_checked"], found["num_images"], found["fingerprint"]) == (9, 36, None)
    assert told == [("decoding", 9, 36), ("comparing", 9, 9)]


@pytest.mark.parametrize(("size", "quality"), [(96, 40), (48, 90), (160, 90)])
def test_the_same_picture_scaled_or_saved_again_is_a_leak_too(folder, size, quality):
    trains, validates = train_and_validation(folder)
    save(folder / validates, Image.open(folder / trains).resize((size, size), Image.BICUBIC), quality)
    found = findings(folder)
    assert found.keys() == {"near_duplicate_across_splits"}
    assert found["near_duplicate_across_splits"]["paths"] == sorted([trains, validates])


def test_copies_within_the_training_images_are_told_apart_from_leaks(folder):
    trains, _ = train_and_validation(folder)
    others = [path for path in sorted((folder / "blue").iterdir()) if path != folder / trains]
    layout = read_folder(folder)
    split = split_dataset(layout, FinetuneConfig(base_model="m", class_names={name: name for name in COLOURS}))
    other = next(path for path in others if part_of_each(split)[f"blue/{path.name}"] == "train")
    other.write_bytes((folder / trains).read_bytes())
    found = findings(folder)
    assert found.keys() == {"duplicate"}
    assert found["duplicate"]["paths"] == sorted([trains, f"blue/{other.name}"])


def test_one_picture_in_two_classes_is_named(folder):
    (folder / "red" / "copy.jpg").write_bytes((folder / "blue" / "00.jpg").read_bytes())
    found = findings(folder)["duplicate_with_other_label"]
    assert found["paths"] == ["blue/00.jpg", "red/copy.jpg"]


def test_an_image_in_the_wrong_folder_is_doubted(folder):
    save(folder / "red" / "wrong.jpg", picture("green", 77))
    found = findings(folder)
    assert found.keys() == {"label_doubted"}
    assert found["label_doubted"]["paths"] == ["red/wrong.jpg"]
    assert "red/wrong.jpg is labelled 'red' and looks like 'green'" in found["label_doubted"]["message"]


def test_small_and_unequal_classes_are_named(folder):
    for number in range(12, 50):
        save(folder / "green" / f"{number}.jpg", picture("green", number))
    for number in range(2, 12):
        (folder / "red" / f"{number:02d}.jpg").unlink()
    found = findings(folder)
    assert "red (2)" in found["class_small"]["message"]
    assert found["imbalance"]["message"] == "Class 'green' has 50 images, class 'red' 2."
    assert "class_small" not in findings(folder, unseen_classes=("red",))


def test_a_class_that_a_domain_has_not_is_named(tmp_path):
    for domain, colours in (("a", ("blue", "green", "red")), ("b", ("blue", "green"))):
        for colour in colours:
            for number in range(6):
                save(tmp_path / domain / colour / f"{number}.jpg", picture(colour, number + 50 * (domain == "b")))
    assert "no red in b" in findings(tmp_path)["class_absent_in_domain"]["message"]


def test_tiny_images_and_other_files_are_named(folder):
    save(folder / "red" / "icon.png", picture("red", 30, size=16))
    (folder / "readme.txt").write_text("about")
    found = findings(folder)
    assert found["image_small"]["paths"] == ["red/icon.png"]
    assert found["file_ignored"]["paths"] == ["readme.txt"]


def test_an_empty_class_is_a_report_with_the_words_of_the_refusal(folder, tiny_base_model):
    (folder / "yellow").mkdir()
    found = report_folder(load_base_model(tiny_base_model), DatasetFolder(folder), {})
    assert [finding["code"] for finding in found["findings"]] == ["invalid_dataset"]
    assert found["findings"][0]["severity"] == "fatal"
    assert "'yellow' holds no image" in found["findings"][0]["message"]


def test_names_that_mean_the_same_are_named_by_the_starters_texts(folder, starter_model):
    names = {"blue": "sofa", "green": "couch", "red": "steam locomotive"}
    found = report_folder(load_base_model(starter_model), DatasetFolder(folder), {"class_names": names})
    alike = {finding["code"]: finding for finding in found["findings"]}["names_alike"]
    assert alike["message"].endswith("'sofa' and 'couch'.")


def test_different_names_are_not_alike():
    cosine = torch.tensor([[1.0, 0.8, 0.7], [0.8, 1.0, 0.75], [0.7, 0.75, 1.0]])
    assert find_alike_names(("cat", "cow", "dog"), cosine) == []


def test_a_model_that_does_not_know_a_class_doubts_nothing_of_it():
    labels = torch.tensor([0, 0, 0, 1, 1])
    sure_of_one = torch.tensor([[0.01, 0.99]] * 5)
    assert find_doubted_labels([str(row) for row in range(5)], labels, sure_of_one, ("a", "b")) == []


def test_neighbours_tell_what_the_texts_are_unsure_of_and_hold_back_what_they_are_wrong_about():
    features = torch.nn.functional.normalize(torch.tensor([[9.0, n] for n in range(6)] + [[n, 9.0] for n in range(6)]))
    labels = torch.tensor([0] * 6 + [1] * 6)
    labels[8] = 0  # it lies among those of class 1
    zero_shot = torch.tensor([[0.9, 0.1, 0.0]] * 6 + [[0.1, 0.9, 0.0]] * 6)
    zero_shot[8] = torch.tensor([0.06, 0.5, 0.44])  # the texts say so too, but are not sure
    zero_shot[2] = torch.tensor([0.02, 0.98, 0.0])  # the texts are sure and wrong
    judged = judge_labels(zero_shot, features, labels)
    assert torch.allclose(judged.sum(1), torch.ones(12))
    assert judged.argmax(1).tolist() == [0] * 6 + [1] * 6
    expected = torch.zeros(3)  # slowly, for one image
    cosines = {other: float(features[8] @ features[other]) for other in range(12) if other != 8}
    nearest = sorted(cosines, key=cosines.get)[-NUM_NEIGHBOURS:]
    weights = torch.softmax(torch.tensor([cosines[other] for other in nearest]) / NEIGHBOUR_TEMPERATURE, dim=0)
    for other, weight in zip(nearest, weights, strict=True):
        expected[labels[other]] += weight
    assert torch.allclose(judged[8], (zero_shot[8] + expected) / 2)
    (found,) = find_doubted_labels([str(row) for row in range(12)], labels, judged, ("a", "b", "c"))
    assert found.paths == ["8"]
    (by_texts,) = find_doubted_labels([str(row) for row in range(12)], labels, zero_shot, ("a", "b", "c"))
    assert by_texts.paths == ["2"]


def test_one_image_alone_has_no_neighbours():
    judged = judge_labels(torch.tensor([[0.1, 0.9]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert judged.tolist() == [[pytest.approx(0.05), pytest.approx(0.45)]]


def test_different_pictures_of_one_kind_are_no_copies(tmp_path):
    for colour in ("red", "blue"):
        for number in range(60):
            save(tmp_path / colour / f"{number}.jpg", picture(colour, number))
    found, bad = look_at_images(tmp_path, read_folder(tmp_path).samples)
    assert not bad
    assert near_duplicates(found) == []


def test_a_large_dataset_is_sampled_evenly(folder):
    layout = read_folder(folder)
    chosen = checked_samples(layout, 9)
    assert len(chosen) == 9
    assert {sample.class_name: 0 for sample in chosen}.keys() == set(COLOURS)
    found = report_dataset(
        folder,
        layout,
        FinetuneConfig(base_model="m", class_names={name: name for name in COLOURS}),
        JUDGE,
        max_images=9,
    )
    assert (found["num_checked"], found["num_images"], found["fingerprint"]) == (9, 36, None)


def test_bytes_of_any_kind_give_a_finding_and_no_error(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 50)).save(buffer, "GIF")
    (folder / "red" / "flat.gif").write_bytes(buffer.getvalue())
    (folder / "red" / "empty.png").write_bytes(b"")
    assert findings(folder)["image_unreadable"]["paths"] == ["red/empty.png"]
