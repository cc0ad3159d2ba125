"""Datasets in other forms than a zip of class folders, through the official client."""

import io
import shutil
import tarfile

import pytest
from openai import BadRequestError


def _tar(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def shards(pictures):
    """The pictures as one WebDataset shard."""
    parts = {}
    for number, (name, content) in enumerate(pictures.items()):
        parts |= {f"{number:04}.png": content, f"{number:04}.cls": name.split("/")[0].encode()}
    return _tar(parts, "w")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_of_class_folders_makes_a_job(service, create_job, pictures, mode):
    file_id = service.upload(_tar(pictures, mode), "pets.tar")
    assert create_job(training_file=file_id).class_names == {name: name for name in ("cat", "dog", "red_panda")}
    assert service.openai.files.content(file_id).content[:2] == _tar(pictures, mode)[:2]


def test_a_webdataset_shard_makes_a_job(service, create_job, shards):
    job = create_job(training_file=service.upload(shards, "pets.tar"))
    assert set(job.class_names) == {"cat", "dog", "red_panda"}


def test_a_manifest_in_a_zip_names_labels_domains_and_splits(service, create_job, pictures, make_archive):
    lines = ["image,label,domain,split"]
    for number, name in enumerate(pictures):
        label, domain = name.split("/")[0], "sketch" if number % 2 else "photo"
        lines.append(f"{name},the {label},{domain},{'test' if number % 5 == 4 else 'train'}")
    archive = make_archive(pictures | {"manifest.csv": "\n".join(lines).encode()})
    body = {"num_steps": 8, "test_domains": ["sketch"]}
    job = create_job(training_file=service.upload(archive), extra_body=body)
    assert set(job.class_names) == {"the cat", "the dog", "the red_panda"}


def test_a_manifests_fault_is_told_with_file_and_line(service, create_job, pictures, make_archive):
    archive = make_archive(pictures | {"manifest.csv": b"image,label\ncat/0.png,cat\n../../etc/passwd,dog\n"})
    with pytest.raises(BadRequestError, match=r"manifest.csv, line 3: image '../../etc/passwd' leads out") as caught:
        create_job(training_file=service.upload(archive))
    assert caught.value.param == "training_file"


def test_a_manifest_below_a_root_is_a_reference(create_job, dataset_root, pictures):
    shutil.copytree(dataset_root / "pets", dataset_root / "listed" / "pets")
    lines = [f'{{"image": "pets/{name}", "label": "{name.split("/")[0]}"}}' for name in pictures]
    (dataset_root / "listed" / "mine.jsonl").write_text("\n".join(lines))
    job = create_job(training_file=str(dataset_root / "listed" / "mine.jsonl"))
    assert set(job.class_names) == {"cat", "dog", "red_panda"}


def test_a_hostile_tar_is_refused_at_the_upload(service, pictures):
    with pytest.raises(BadRequestError, match=r"'../evil.png'") as caught:
        service.upload(_tar(pictures | {"../evil.png": b"evil"}), "pets.tgz")
    assert caught.value.param == "file"


@pytest.mark.parametrize("reference", ["s3://bucket/pets", "hf://datasets/acme/pets", "http://169.254.169.254/latest"])
def test_no_url_is_read_that_the_operator_did_not_open(create_job, reference):
    with pytest.raises(BadRequestError, match="fetches no URLs but those that its operator opened"):
        create_job(training_file=reference)
