import io
import threading
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.layout import list_folder, read_layout
from alignclip_core.errors import ImageRejected
from alignclip_core.images import DEFAULT_LIMITS, Preprocessing, decode_image
from alignclip_core.loading import (
    AUGMENTATION,
    SampleOrder,
    TrainingSet,
    iterate_evaluation,
    iterate_training,
    prefetch,
)
from alignclip_core.loading import _random as random_numbers
from alignclip_core.pixels import decode_pixels, prepare_image, random_crop

PREPROCESSING = Preprocessing(image_size=32, mean=(0.48, 0.46, 0.41), std=(0.27, 0.26, 0.28))


@pytest.fixture
def make_training_set(tmp_path, draw_dataset):
    draw_dataset(tmp_path / "dataset", domains=("plain", "dotted"), num_images=3)

    def make(**fields):
        layout = read_layout(list_folder(tmp_path / "dataset"))
        names = {name: name for name in layout.class_names}
        config = FinetuneConfig(base_model="tiny", class_names=names, **{"global_batch_size": 5} | fields)
        labels = [layout.class_names.index(sample.class_name) for sample in layout.samples]
        return TrainingSet(tmp_path, layout.samples, labels, config, PREPROCESSING, DEFAULT_LIMITS)

    return make


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with some detail, like a photo and unlike noise."""
    generator = np.random.default_rng(width * height)
    coarse = Image.fromarray(generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def assert_equal_batches(first, second):
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_a_step_is_the_same_wherever_the_run_began(make_training_set):
    whole = list(iterate_training(make_training_set(), 1, 9))
    assert_equal_batches(whole[5:], iterate_training(make_training_set(), 6, 9))
    assert whole[0].images.shape == (5, 3, 32, 32)
    assert whole[0].images.dtype == torch.uint8


@pytest.mark.parametrize("num_loader_workers", [1, 2])
def test_any_number_of_loader_processes_gives_the_same_batches(make_training_set, num_loader_workers):
    in_threads = iterate_training(make_training_set(), 3, 8, num_threads=2)
    in_processes = iterate_training(make_training_set(num_loader_workers=num_loader_workers), 3, 8)
    assert_equal_batches(list(in_threads), list(in_processes))


def test_the_seed_changes_order_and_crops(make_training_set):
    first, second = make_training_set()[1], make_training_set(seed=1)[1]
    assert not torch.equal(first.images, second.images)
    orders = [make_training_set(seed=seed).order.positions(1) for seed in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    "fields",
    [{"crop_scale": (0.1, 0.2)}, {"horizontal_flip": False, "seed": 3}, {"interpolation": "bilinear"}],
    ids=lambda fields: next(iter(fields)),
)
def test_crops_are_made_as_the_config_says(make_training_set, fields):
    training_set = make_training_set(**fields)
    usual = make_training_set(seed=training_set.config.seed)[2].images
    settings = {"crop_scale": (0.7, 1.0), "horizontal_flip": True, "interpolation": "bicubic"} | fields
    for position, index in enumerate(training_set.order.positions(2)):
        sample = training_set.samples[index]
        expected = random_crop(
            decode_pixels((training_set.root / "dataset" / sample.path).read_bytes(), DEFAULT_LIMITS),
            32,
            scale=settings["crop_scale"],
            horizontal_flip=settings["horizontal_flip"],
            interpolation=InterpolationMode(settings["interpolation"]),
            random=random_numbers(training_set.config.seed, AUGMENTATION, 2, position),
        )
        assert torch.equal(training_set[2].images[position], expected)
    assert not torch.equal(training_set[2].images, usual)


def test_labels_belong_to_the_images(make_training_set):
    training_set = make_training_set(crop_scale=(1.0, 1.0), horizontal_flip=False)
    batch = training_set[4]
    for image, label, position in zip(batch.images, batch.labels, training_set.order.positions(4), strict=True):
        sample = training_set.samples[position]
        assert training_set.config.trained_classes[label] == sample.class_name
        picture = Image.open(training_set.root / "dataset" / sample.path)
        mean = np.asarray(picture).mean((0, 1))
        assert np.abs(image.float().mean((1, 2)).numpy() - mean).max() < 12


def test_domains_share_each_batch_and_take_turns_with_the_rest():
    domains = ["art"] * 10 + ["photo"] * 50 + ["sketch"] * 3
    config = FinetuneConfig(base_model="m", class_names={"a": "a", "b": "b"}, global_batch_size=8)
    order = SampleOrder(domains, config)
    counts = [Counter(domains[position] for position in order.positions(step)) for step in range(1, 13)]
    assert all(sum(count.values()) == 8 and set(count.values()) <= {2, 3} for count in counts)
    assert sum(counts, Counter()) == {"art": 32, "photo": 32, "sketch": 32}
    assert all(len({count[name] for count in counts}) == 2 for name in ("art", "photo", "sketch"))


def test_each_domain_is_gone_through_before_any_of_it_repeats():
    domains = ["art"] * 4 + ["photo"] * 6
    config = FinetuneConfig(base_model="m", class_names={"a": "a", "b": "b"}, global_batch_size=4)
    order = SampleOrder(domains, config)
    art = [p for step in range(1, 7) for p in order.positions(step) if p < 4]
    assert [sorted(art[i : i + 4]) for i in range(0, 12, 4)] == [[0, 1, 2, 3]] * 3
    assert art[:4] != art[4:8] or art[4:8] != art[8:]  # a new order each time


def test_without_balance_every_image_is_seen_once_a_pass():
    domains = ["art"] * 2 + ["photo"] * 10
    config = FinetuneConfig(
        base_model="m", class_names={"a": "a", "b": "b"}, global_batch_size=5, balance_domains=False
    )
    order = SampleOrder(domains, config)
    seen = [position for step in range(1, 13) for position in order.positions(step)]
    assert all(sorted(seen[start : start + 12]) == list(range(12)) for start in range(0, 60, 12))


def test_fewer_images_than_the_batch_holds_repeat_within_it():
    config = FinetuneConfig(base_model="m", class_names={"a": "a", "b": "b"}, global_batch_size=7)
    assert sorted(SampleOrder(["", "", ""], config).positions(1)[:6]) == [0, 0, 1, 1, 2, 2]


def test_evaluation_images_keep_their_order_over_batches(make_training_set):
    training_set = make_training_set()
    batches = list(
        iterate_evaluation(training_set.root, training_set.samples, PREPROCESSING, DEFAULT_LIMITS, 7, num_threads=3)
    )
    assert [len(batch) for batch in batches] == [7, 7, 7, 3]
    sample = training_set.samples[9]
    content = (training_set.root / "dataset" / sample.path).read_bytes()
    assert torch.equal(torch.cat(batches)[9], prepare_image(decode_image(content), PREPROCESSING))


@pytest.mark.parametrize("num_loader_workers", [0, 1])
def test_a_bad_image_is_named_whoever_reads_it(make_training_set, num_loader_workers):
    training_set = make_training_set(num_loader_workers=num_loader_workers)
    (training_set.root / "dataset" / "dotted" / "circle" / "1.png").write_bytes(b"no image")
    with pytest.raises(ImageRejected, match=r"^dotted/circle/1.png: The bytes are no image") as caught:
        list(iterate_training(training_set, 1, 20))
    assert caught.value.param == "training_file"


def test_a_missing_image_is_named(make_training_set):
    training_set = make_training_set()
    (training_set.root / "dataset" / "plain" / "cross" / "0.png").unlink()
    with pytest.raises(ImageRejected, match=r"plain/cross/0.png: The file cannot be read"):
        list(iterate_training(training_set, 1, 20))


def test_prefetched_values_come_in_order_and_an_error_at_its_place():
    def make(number):
        if number == 3:
            raise KeyError(number)
        return number * 10

    values = prefetch(make, range(6), num_threads=3, num_ahead=4)
    assert [next(values) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(KeyError):
        next(values)


def test_a_reader_that_stops_early_leaves_no_thread_behind():
    made = []
    values = prefetch(lambda number: made.append(number), range(1000), num_threads=2, num_ahead=3)
    next(values)
    values.close()
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_random_numbers_of_neighbouring_steps_and_positions_differ(make_training_set):
    training_set = make_training_set()
    content = io.BytesIO()
    photo(90, 70).save(content, "PNG")
    for sample in training_set.samples:
        (training_set.root / "dataset" / sample.path).write_bytes(content.getvalue())
    images = [image for step in (1, 2, 3) for image in training_set[step].images]
    assert all(not torch.equal(one, other) for one, other in pairwise(images))
