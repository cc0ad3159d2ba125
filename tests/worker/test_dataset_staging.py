"""Each kind of dataset, from the reference to what the trainer reads; none of it is a folder of classes."""

import io
import json
import tarfile
from base64 import b64encode
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from alignclip_core.dataset.check import read_sample
from alignclip_core.dataset.listing import listing_file, read_staged
from alignclip_core.errors import DatasetInvalid
from alignclip_core.images import DEFAULT_LIMITS
from alignclip_store.queue import wake
from worker.run_folders import held_folder
from worker.staging import stage


def _write_shards(folder: Path, pictures, num_shards=2):
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        with tarfile.open(folder / f"pets-{shard}.tar", "w") as tar:
            for number, (name, content) in enumerate(list(pictures.items())[shard::num_shards]):
                for suffix, part in (("png", content), ("txt", name.split("/")[0].encode())):
                    info = tarfile.TarInfo(f"{number:04}.{suffix}")
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))


def _write_tables(folder: Path, pictures):
    folder.mkdir(parents=True)
    rows = [{"image": {"bytes": c, "path": n}, "label": n.split("/")[0]} for n, c in pictures.items()]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "pets.parquet", row_group_size=5)


def _write_manifest(folder: Path, pictures):
    for name, content in pictures.items():
        path = folder / "images" / name.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    lines = [f"images/{name.replace('/', '-')},{name.split('/')[0]}" for name in pictures]
    (folder / "manifest.csv").write_text("\n".join(["image,label", *lines]))


def _write_data_uris(folder: Path, pictures):
    folder.mkdir(parents=True)
    rows = [{"image": f"data:image/png;base64,{b64encode(c).decode()}", "label": n[:-6]} for n, c in pictures.items()]
    (folder / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))


WRITERS = {
    "shards": _write_shards,
    "tables": _write_tables,
    "manifest": _write_manifest,
    "data_uris": _write_data_uris,
}


@pytest.fixture(params=[None, 2000], ids=["staged", "streamed"])
def cache_bytes(request):
    """A limit above and one below the size of the pictures."""
    return request.param


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_the_trainer_the_same_images(make_service, tmp_path, pictures, claim_run, kind, cache_bytes):
    WRITERS[kind](tmp_path / "opened" / kind, pictures)
    service = make_service(dataset_roots=[tmp_path / "opened"], dataset_cache_bytes=cache_bytes)
    service.submit(str(tmp_path / "opened" / kind), wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        folder = run.run_dir.dataset
        assert folder.exists() == (cache_bytes is None)
        layout = read_staged(folder)
        found = sorted((sample.class_name, read_sample(folder, sample, DEFAULT_LIMITS)) for sample in layout.samples)
    assert found == sorted((name.split("/")[0], content) for name, content in pictures.items())


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_can_be_a_test_dataset(make_service, tmp_path, pictures, archive, claim_run, kind, cache_bytes):
    WRITERS[kind](tmp_path / "opened" / kind, pictures)
    service = make_service(dataset_roots=[tmp_path / "opened"], dataset_cache_bytes=cache_bytes)
    service.submit(archive, test_datasets={kind: str(tmp_path / "opened" / kind)}, wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        assert run.run_dir.test_datasets == (kind,)
        folder = run.run_dir.test_dataset(kind)
        assert folder.exists() == (cache_bytes is None)
        samples = read_staged(folder).samples
        assert sorted(read_sample(folder, sample, DEFAULT_LIMITS) for sample in samples) == sorted(pictures.values())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_bad_image_of_every_kind_is_left_out(make_service, tmp_path, pictures, claim_run, kind, cache_bytes):
    WRITERS[kind](tmp_path / "opened" / kind, pictures | {"red/broken.png": b"no picture"})
    service = make_service(dataset_roots=[tmp_path / "opened"], dataset_cache_bytes=cache_bytes)
    service.submit(str(tmp_path / "opened" / kind), wakes=False, skip_bad_images=True)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        assert len(read_staged(run.run_dir.dataset).samples) == len(pictures)
        assert listing_file(run.run_dir.dataset).is_file()


def test_a_set_of_torchvision_is_staged_by_its_name_with_its_own_split(make_service, tmp_path, pictures, claim_run):
    folder = tmp_path / "torchvision/oxford-iiit-pet"
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True)
    names = {name.replace("/", "_").removesuffix(".png"): content for name, content in pictures.items()}
    for name, content in names.items():
        (folder / f"images/{name}.jpg").write_bytes(content)
    for part, numbers in (("trainval", "012"), ("test", "3")):
        lines = [f"{name} 1 1 1\n" for name in names if name[-1] in numbers]
        (folder / f"annotations/{part}.txt").write_text("".join(lines))
    service = make_service(torchvision_root=tmp_path / "torchvision")
    service.submit("torchvision://OxfordIIITPet", wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        samples = read_staged(run.run_dir.dataset).samples
    assert {(sample.class_name, sample.split) for sample in samples} == {
        (name, split) for name in ("blue", "green", "red") for split in ("train", "test")
    }
    assert len(samples) == len(pictures)


def test_a_listing_that_is_none_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"format_version": 9}')
    with pytest.raises(DatasetInvalid, match=r"dataset\.json is no list of images"):
        read_staged(tmp_path / "dataset")


def test_a_job_trains_on_shards_in_a_bucket_that_are_larger_than_its_cache(make_service, s3, tmp_path, pictures):
    _write_shards(tmp_path / "shards", pictures)
    s3.mkdir("bucket")
    s3.put(str(tmp_path / "shards"), "bucket/shards", recursive=True)
    service = make_service(dataset_urls=["s3://bucket/"], dataset_cache_bytes=3000)
    assert sum(map(len, pictures.values())) > 3000
    job_id = service.submit("s3://bucket/shards", wakes=False, num_steps=4, evaluate_every_steps=2)
    service.start_worker()
    wake(service.queue, job_id)
    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert any("fetched while they are needed" in event.message for event in service.events(job_id))
    assert job.dataset["num_images"] == len(pictures)
