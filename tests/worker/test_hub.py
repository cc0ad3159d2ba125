"""Datasets of a hub: written by the unmodified `datasets`, read by the unmodified `huggingface_hub`."""

import json
import os
import subprocess
import sys
from hashlib import sha256

import datasets
import pytest
from huggingface_hub import HfFileSystem, constants

from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.listing import read_staged
from alignclip_core.images import DEFAULT_LIMITS
from alignclip_store.database import reading
from alignclip_store.datasets import open_dataset
from alignclip_store.errors import DatasetRejected
from tests.hub import LocalHub
from tests.stored_datasets import list_dataset
from worker.run_folders import held_folder
from worker.staging import stage

CLASSES = ["blue", "green", "red"]
LOAD = """
import datasets, hashlib, json
found = datasets.load_dataset("acme/colours").cast_column("image", datasets.Image(decode=False))
names = found["train"].features["label"].names
print(json.dumps(sorted([names[row["label"]], split, hashlib.sha256(row["image"]["bytes"]).hexdigest()]
                        for split, rows in found.items() for row in rows)))
"""


@pytest.fixture
def hub(tmp_path, pictures, monkeypatch):
    """A hub with the pictures as Parquet, of two splits, and as class folders."""
    folder = tmp_path / "hub" / "acme" / "colours"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Colours")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    for split, first in (("train", 0), ("test", 3)):
        chosen = [name for name in pictures if (int(name[-5]) >= 3) == (first == 3)]
        images = [{"bytes": pictures[name], "path": None} for name in chosen]
        labels = [CLASSES.index(name.split("/")[0]) for name in chosen]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    for name, content in pictures.items():
        path = tmp_path / "hub" / "acme" / "folders" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    hub = LocalHub(tmp_path / "hub")
    # what HF_ENDPOINT sets when the library is imported
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "")
    HfFileSystem.clear_instance_cache()
    yield hub
    HfFileSystem.clear_instance_cache()
    hub.stop()


@pytest.mark.parametrize("cache_bytes", [None, 1000], ids=["staged", "streamed"])
def test_a_dataset_of_the_hub_is_what_datasets_reads_there(
    make_service, claim_run, hub, tmp_path, pictures, cache_bytes
):
    service = make_service(dataset_urls=["hf://datasets/acme/"], dataset_cache_bytes=cache_bytes)
    service.submit("hf://datasets/acme/colours", wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        folder = run.run_dir.dataset
        assert folder.exists() == (cache_bytes is None)
        found = [
            [sample.class_name, sample.split, sha256(read_sample(folder, sample, DEFAULT_LIMITS)).hexdigest()]
            for sample in read_staged(folder).samples
        ]
    assert len(found) == len(pictures)
    if cache_bytes is None:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf_home")}
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, timeout=120
        )
        assert sorted(found) == json.loads(loaded.stdout), loaded.stderr


def test_class_folders_of_the_hub_are_staged_as_such(make_service, claim_run, hub, pictures):
    service = make_service(dataset_urls=["hf://datasets/acme"])
    service.submit("hf://datasets/acme/folders", wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        found = {path.relative_to(run.run_dir.dataset).as_posix() for path in run.run_dir.dataset.rglob("*.png")}
    assert found == set(pictures)


def test_a_dataset_that_the_hub_has_not_is_refused_in_words(make_service, hub):
    service = make_service(dataset_urls=["hf://datasets/acme"])
    with reading(service.engine) as session:
        dataset = open_dataset(session, "owner", "hf://datasets/acme/none", service.settings)
    with pytest.raises(DatasetRejected, match="'hf://datasets/acme/none' cannot be read"):
        list_dataset(dataset, service.artifacts, service.settings)
    with reading(service.engine) as session, pytest.raises(DatasetRejected, match="fetches no URLs"):
        open_dataset(session, "owner", "hf://datasets/other/colours", service.settings)
