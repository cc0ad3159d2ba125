"""A dataset's fingerprint and the list of its split."""

from dataclasses import replace

from alignclip_core.config import FinetuneConfig
from alignclip_core.dataset.fingerprint import count_parts, fingerprint, split_manifest, split_sha256
from alignclip_core.dataset.layout import read_layout
from alignclip_core.dataset.splits import split_dataset

PATHS = [f"{domain}/{name}/{i}.jpg" for domain in ("art", "photo") for name in ("cat", "dog", "cow") for i in range(5)]


def digests_of(layout):
    return {sample.path: f"digest of {sample.path.removeprefix('top/')}" for sample in layout.samples}


def split_of(layout, **fields):
    names = {name: name for name in layout.class_names}
    return split_dataset(layout, FinetuneConfig(base_model="starter", class_names=names, **fields))


def test_a_fingerprint_is_the_same_wherever_the_images_lie():
    here, there = read_layout(PATHS), read_layout([f"top/{path}" for path in reversed(PATHS)])
    assert fingerprint(here.samples, digests_of(here)) == fingerprint(there.samples, digests_of(there))
    assert split_sha256(split_of(here)) == split_sha256(split_of(there))


def test_a_fingerprint_changes_with_an_image_and_with_what_is_said_of_it():
    layout = read_layout(PATHS)
    digests = digests_of(layout)
    first, *rest = layout.samples
    found = {
        fingerprint(layout.samples, digests),
        fingerprint(rest, digests),
        fingerprint(layout.samples, digests | {first.path: "another"}),
        fingerprint([replace(first, class_name="dog"), *rest], digests),
        fingerprint([replace(first, split="test"), *rest], digests),
        fingerprint([replace(first, domain="photo"), *rest], digests),
    }
    assert len(found) == 6


def test_the_list_of_a_split_names_the_part_of_every_image():
    split = split_of(read_layout(PATHS), test_domains=("photo",), unseen_classes=("cow",))
    manifest = split_manifest(split)
    rows = [dict(zip(manifest["columns"], row, strict=True)) for row in manifest["images"]]
    assert len(rows) == len(PATHS)
    assert {row["part"] for row in rows if row["domain"] == "photo"} == {"test_domains"}
    assert {row["part"] for row in rows if row["domain"] == "art" and row["class_name"] == "cow"} == {"unseen_classes"}
    assert count_parts(split) == {"test_domains": 15, "train": 8, "unseen_classes": 5, "validation": 2}
    assert manifest["sha256"] == split_sha256(split) != split_sha256(split_of(read_layout(PATHS), seed=1))
    few = count_parts(split_of(read_layout(PATHS), num_shots=1))
    assert few["unused"] == 18
