import dataclasses
import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.class_names import resolve_class_names
from alignclip_core.dataset.layout import read_layout
from alignclip_core.dataset.samples import Sample, layout_of
from alignclip_core.dataset.splits import split_dataset
from alignclip_core.errors import DatasetInvalid

COUNTS = {
    "art/cat": 20,
    "art/dog": 10,
    "photo/cat": 7,
    "photo/dog": 2,
    "photo/bird": 1,
    "sketch/cat": 3,
    "sketch/cow": 4,
}


def paths_of(counts: dict[str, int]) -> list[str]:
    return [f"{folder}/{i}.jpg" for folder, count in counts.items() for i in range(count)]


LAYOUT = read_layout(paths_of(COUNTS))


def config_of(layout=LAYOUT, **fields) -> FinetuneConfig:
    names = {name: name for name in layout.class_names}
    return FinetuneConfig(base_model="starter", class_names=names, **fields)


def group(split, domains, classes):
    found = [g for g in split.groups if (g.domains, g.classes) == (domains, classes)]
    return found[0] if found else None


def test_each_domain_and_class_gives_its_share():
    split = split_dataset(LAYOUT, config_of())
    held_out: dict[str, int] = {}
    for index in split.validation:
        sample = split.samples[index]
        folder = f"{sample.domain}/{sample.class_name}"
        held_out[folder] = held_out.get(folder, 0) + 1
    # a fifth, at least one where there are two, never the last
    assert held_out == {"art/cat": 4, "art/dog": 2, "photo/cat": 1, "photo/dog": 1, "sketch/cat": 1, "sketch/cow": 1}
    assert set(split.train).isdisjoint(split.validation)
    assert sorted(split.train + split.validation) == list(range(len(LAYOUT.samples)))


def test_even_a_large_share_leaves_an_image_to_train():
    split = split_dataset(LAYOUT, config_of(validation_fraction=0.9))
    trained = {(split.samples[i].domain, split.samples[i].class_name) for i in split.train}
    assert trained == {tuple(folder.split("/")) for folder in COUNTS}


def test_no_share_trains_on_everything_and_has_no_group():
    split = split_dataset(LAYOUT, config_of(validation_fraction=0.0))
    assert split.validation == ()
    assert split.groups == ()


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_listing():
    shuffled = paths_of(COUNTS)
    random.Random(1).shuffle(shuffled)
    again = read_layout(shuffled)
    assert split_dataset(again, config_of()) == split_dataset(LAYOUT, config_of())
    assert split_dataset(LAYOUT, config_of(seed=1)).validation != split_dataset(LAYOUT, config_of()).validation


def test_the_split_is_equal_in_another_process_and_below_another_top_folder():
    program = (
        "from alignclip_core.config import FinetuneConfig; from alignclip_core.dataset.layout import read_layout\n"
        "from alignclip_core.dataset.splits import split_dataset\n"
        f"counts = {COUNTS!r}\n"
        "layout = read_layout(f'top/{folder}/{i}.jpg' for folder, count in counts.items() for i in range(count))\n"
        "config = FinetuneConfig(base_model='starter', class_names={name: name for name in layout.class_names})\n"
        "print(split_dataset(layout, config).validation)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(split_dataset(LAYOUT, config_of()).validation)


def test_more_images_of_one_class_leave_the_split_of_the_others_alone():
    more = read_layout(paths_of(COUNTS | {"photo/bird": 50}))

    def held_out_cats(layout):
        split = split_dataset(layout, config_of(layout))
        return {split.samples[i].path for i in split.validation if split.samples[i].class_name == "cat"}

    assert held_out_cats(more) == held_out_cats(LAYOUT)


def test_groups_hold_every_question_of_the_paper():
    split = split_dataset(LAYOUT, config_of(test_domains=("sketch",), unseen_classes=("bird", "cow")))
    validation = group(split, "trained_domains", "trained_classes")
    assert validation.indices == split.validation
    assert validation.label_space == ("cat", "dog")

    def paths(domains, classes):
        return {split.samples[i].path for i in group(split, domains, classes).indices}

    assert paths("trained_domains", "unseen_classes") == {"photo/bird/0.jpg"}
    assert group(split, "trained_domains", "unseen_classes").label_space == ("bird", "cow")
    assert paths("test_domains", "trained_classes") == {f"sketch/cat/{i}.jpg" for i in range(3)}
    assert paths("test_domains", "unseen_classes") == {f"sketch/cow/{i}.jpg" for i in range(4)}
    union = group(split, "test_domains", "all_classes")
    assert len(union.indices) == 7
    assert union.label_space == ("bird", "cat", "cow", "dog")
    trained = {(split.samples[i].domain, split.samples[i].class_name) for i in split.train}
    assert trained == {("art", "cat"), ("art", "dog"), ("photo", "cat"), ("photo", "dog")}


def test_without_unseen_classes_and_test_domains_source_validation_is_the_only_group():
    split = split_dataset(LAYOUT, config_of())
    assert [(g.domains, g.classes) for g in split.groups] == [("trained_domains", "trained_classes")]


def test_a_single_unseen_class_is_evaluated_in_the_union_alone():
    split = split_dataset(LAYOUT, config_of(unseen_classes=("cow",)))
    assert group(split, "trained_domains", "unseen_classes") is None
    union = group(split, "trained_domains", "all_classes")
    assert {split.samples[i].class_name for i in union.indices} == {"cat", "dog", "cow"}


def test_a_given_validation_set_leaves_the_whole_dataset_to_training():
    validation = read_layout(["cat/v1.jpg", "cow/v2.jpg"])
    split = split_dataset(LAYOUT, config_of(unseen_classes=("bird", "cow")), validation)
    assert len(split.train) == sum(n for folder, n in COUNTS.items() if folder.split("/")[1] in ("cat", "dog"))
    assert [(split.samples[i].path, split.samples[i].source) for i in split.validation] == [
        ("cat/v1.jpg", "validation")
    ]
    unseen = group(split, "trained_domains", "unseen_classes")
    assert {split.samples[i].path for i in unseen.indices} >= {"cow/v2.jpg", "photo/bird/0.jpg"}


def test_a_validation_class_that_is_not_trained_on_is_named():
    with pytest.raises(DatasetInvalid, match="'zebra' that the training set has not"):
        split_dataset(LAYOUT, config_of(), read_layout(["cat/1.jpg", "zebra/1.jpg"]))


def test_a_validation_set_without_a_trained_class_is_refused():
    with pytest.raises(DatasetInvalid, match="no image of a trained class"):
        split_dataset(LAYOUT, config_of(unseen_classes=("cow",)), read_layout(["cow/1.jpg"], min_classes=1))


@pytest.mark.parametrize(
    ("layout", "fields", "message"),
    [
        (LAYOUT, {"test_domains": ("clipart",)}, "'clipart'.*known: art, photo, sketch"),
        (LAYOUT, {"test_domains": ("art", "photo", "sketch")}, "no domain to train on"),
        (LAYOUT, {"test_domains": ("sketch",)}, "'cow' has no image outside test_domains"),
        (read_layout(["cat/1.jpg", "dog/1.jpg"]), {"test_domains": ("art",)}, "no domain folders"),
    ],
)
def test_domains_that_cannot_be_left_out_are_refused(layout, fields, message):
    with pytest.raises(DatasetInvalid, match=message) as caught:
        split_dataset(layout, config_of(layout, **fields))
    assert caught.value.param == "test_domains"


def test_class_names_of_the_config_must_be_those_of_the_folders():
    config = config_of()
    extra = dataclasses.replace(config, class_names={**config.class_names, "zebra": "zebra"})
    with pytest.raises(DatasetInvalid, match="no images of class 'zebra'"):
        split_dataset(LAYOUT, extra)
    fewer = dataclasses.replace(config, class_names={"cat": "cat", "dog": "dog", "bird": "bird"})
    with pytest.raises(DatasetInvalid, match="'cow' is missing in class_names"):
        split_dataset(LAYOUT, fewer)


PETS = read_layout(["golden_retriever/1.jpg", "cat/1.jpg", "n0123/1.jpg"])


def test_class_names_default_to_the_folders():
    assert resolve_class_names(PETS, None) == {n: n for n in ("cat", "golden_retriever", "n0123")}


def test_a_list_is_matched_by_name_in_any_order():
    names = resolve_class_names(PETS, ["N0123", "Golden Retriever", "cat"])
    assert names == {"cat": "cat", "golden_retriever": "Golden Retriever", "n0123": "N0123"}


def test_a_map_may_name_other_words_for_some():
    names = resolve_class_names(PETS, {"n0123": "parrot"})
    assert names == {"cat": "cat", "golden_retriever": "golden_retriever", "n0123": "parrot"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cat", "golden retriever", "parrot"], "'parrot', which fits no class folder .left: n0123"),
        (["cat", "golden retriever"], "no name for class folder 'n0123'"),
        (["cat", "cat", "golden retriever", "n0123"], "'cat', which fits no class folder"),
        ({"dog": "dog"}, "a folder 'dog' that the dataset has not"),
        ({"n0123": " "}, "must be a word or more"),
        ({"n0123": 5}, "must be a word or more"),
        ({"n0123": "Cat"}, "same name 'Cat'"),
    ],
)
def test_names_that_do_not_fit_are_named(given, message):
    with pytest.raises(DatasetInvalid, match=message) as caught:
        resolve_class_names(PETS, given)
    assert caught.value.param == "class_names"


def test_the_test_share_is_the_same_for_every_seed_and_takes_no_part_in_training():
    first, second = (split_dataset(LAYOUT, config_of(test_fraction=0.2, seed=seed)) for seed in (0, 1))
    tested = group(first, "test_images", "trained_classes")
    assert tested.indices == group(second, "test_images", "trained_classes").indices
    assert first.validation != second.validation
    assert len(tested.indices) == 4 + 2 + 1 + 1 + 1 + 1
    assert set(tested.indices).isdisjoint(first.train + first.validation)


def test_unseen_classes_are_tested_on_the_test_share_where_there_is_one():
    split = split_dataset(LAYOUT, config_of(test_fraction=0.2, unseen_classes=("cow", "dog"), test_domains=("art",)))
    classes = {name: group(split, "test_images", name).label_space for name in ("trained_classes", "unseen_classes")}
    assert classes == {"trained_classes": ("bird", "cat"), "unseen_classes": ("cow", "dog")}
    assert {split.samples[i].domain for i in group(split, "test_images", "all_classes").indices} == {"photo", "sketch"}
    assert group(split, "trained_domains", "unseen_classes") is None


def test_few_shots_are_drawn_of_each_class_by_the_seed():
    splits = [split_dataset(LAYOUT, config_of(num_shots=2, seed=seed)) for seed in (0, 0, 1)]
    assert splits[0].train == splits[1].train != splits[2].train
    drawn: dict[str, int] = {}
    for index in splits[0].train:
        folder = splits[0].samples[index].path.rsplit("/", 1)[0]
        drawn[folder] = drawn.get(folder, 0) + 1
    assert drawn == {"art/cat": 2, "art/dog": 2, "photo/cat": 2, "photo/dog": 1, "photo/bird": 1} | {
        "sketch/cat": 2,
        "sketch/cow": 2,
    }
    # two of art/cat's four validate, and the rest of it takes no part
    assert sum(splits[0].samples[i].path.startswith("art/cat") for i in splits[0].validation) == 2
    assert len(group(splits[0], "trained_domains", "trained_classes").indices) == len(splits[0].validation)


def test_a_test_domain_has_the_shares_of_domainbed():
    split = split_dataset(LAYOUT, config_of(test_domains=("photo",), unseen_classes=("bird", "cow"), seed=3))
    everything = group(split, "test_domains", "all_classes")
    # DomainBed: RandomState(md5(str((trial_seed, env)))).shuffle(keys), of which the first fifth is "out"
    keys = list(range(10))
    number = int(hashlib.md5(b"(3, 1)").hexdigest(), 16) % 2**31
    np.random.RandomState(number).shuffle(keys)
    photos = [i for i, sample in enumerate(LAYOUT.samples) if sample.domain == "photo"]
    assert everything.parts["out_split"] == {photos[key] for key in keys[:2]}
    assert everything.parts["in_split"] == {photos[key] for key in keys[2:]}
    assert group(split, "trained_domains", "all_classes").parts == {}


SPLITS = {"train": 4, "validation": 2, "test": 3}
WITH_SPLITS = layout_of(
    Sample(f"{domain}/{name}/{split}{number}.jpg", name, domain, split=split)
    for domain in ("art", "photo")
    for name in ("cat", "dog", "cow")
    for split, count in SPLITS.items()
    for number in range(count)
)


def test_the_datasets_own_split_is_honoured():
    split = split_dataset(WITH_SPLITS, config_of(WITH_SPLITS, validation_fraction=0.5))
    assert {split.samples[i].split for i in split.train} == {"train"}
    assert {split.samples[i].split for i in split.validation} == {"validation"}
    assert len(split.train) == 24
    assert {split.samples[i].split for i in group(split, "test_images", "trained_classes").indices} == {"test"}
    assert split == split_dataset(
        WITH_SPLITS, config_of(WITH_SPLITS, seed=0, test_fraction=0.3, validation_fraction=0.5)
    )


def test_a_split_with_test_images_alone_leaves_validation_to_us():
    samples = [
        dataclasses.replace(sample, split=sample.split.replace("validation", "train")) for sample in WITH_SPLITS.samples
    ]
    split = split_dataset(layout_of(samples), config_of(WITH_SPLITS))
    assert len(split.validation) == 6  # a fifth of six, of each class in each domain
    assert len(group(split, "test_images", "trained_classes").indices) == 18


def test_a_test_domain_is_tested_whole_and_unseen_classes_on_the_test_images():
    config = config_of(WITH_SPLITS, test_domains=("photo",), unseen_classes=("cow",))
    split = split_dataset(WITH_SPLITS, config)
    assert {split.samples[i].domain for i in split.train} == {"art"}
    assert len(group(split, "test_domains", "all_classes").indices) == 27
    tested = [split.samples[i] for i in group(split, "test_images", "all_classes").indices]
    assert {sample.split for sample in tested} == {"test"}
    assert {sample.class_name for sample in tested} == {"cat", "cow", "dog"}
    assert group(split, "trained_domains", "all_classes").indices == split.validation


def test_a_class_that_the_split_never_trains_is_refused():
    samples = [
        dataclasses.replace(each, split="test") if each.class_name == "cow" else each for each in WITH_SPLITS.samples
    ]
    with pytest.raises(DatasetInvalid, match="'cow' has no image that trains"):
        split_dataset(layout_of(samples), config_of(WITH_SPLITS))


def test_imagenets_folders_get_imagenets_names():
    layout = read_layout(["n01440764/1.jpg", "n01443537/1.jpg"])
    assert resolve_class_names(layout, None) == {"n01440764": "tench", "n01443537": "goldfish"}
    assert resolve_class_names(layout, {"n01440764": "fish"}) == {"n01440764": "fish", "n01443537": "n01443537"}
    other = read_layout(["n01440764/1.jpg", "nothing/1.jpg"])
    assert resolve_class_names(other, None) == {"n01440764": "n01440764", "nothing": "nothing"}


def test_a_map_may_give_several_words_for_a_class():
    names = resolve_class_names(PETS, {"cat": ["cat", "house_cat"]})
    assert names["cat"] == "cat|house_cat"
    for given in ({"cat": ["cat", "n0123"]}, {"cat": ["cat", ""]}, {"cat": []}):
        with pytest.raises(DatasetInvalid):
            resolve_class_names(PETS, given)
