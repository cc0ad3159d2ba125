"""Thumbnails of a job's images: of these alone, and of no others' jobs."""

import io
import json
from base64 import b64encode

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from alignclip_store.tables import Job
from tests.api.conftest import encode_png

JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def ask(http):
    """A function: the answer to a GET of an image of a job."""
    return lambda job, path, **query: http.get(f"{JOBS}/{job.id}/images", params={"path": path, **query})


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def colour_of(answer):
    """The channel that a class of the test pictures is brightest in."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg"), answer.text
    picture = Image.open(io.BytesIO(answer.content))
    return int(np.asarray(picture).mean(axis=(0, 1)).argmax())


def test_an_image_of_an_uploaded_dataset_is_shown_small(service, create_job, ask, pictures, make_archive):
    large = encode_png(np.full((500, 1000, 3), (9, 200, 9), dtype=np.uint8))
    job = create_job(training_file=service.upload(make_archive(pictures | {"dog/large.png": large})))
    answer = ask(job, "dog/large.png")
    assert Image.open(io.BytesIO(answer.content)).size == (320, 160)
    assert answer.headers["cache-control"] == "private, max-age=3600"
    assert [colour_of(ask(job, f"{name}/0.png")) for name in ("cat", "dog", "red_panda")] == [0, 1, 2]


def test_an_image_of_a_folder_a_table_or_a_validation_file_is_shown(
    service, create_job, ask, dataset_root, pictures, archive, make_archive
):
    assert colour_of(ask(create_job(training_file=str(dataset_root / "pets")), "dog/1.png")) == 1
    rows = [{"image": {"bytes": content}, "label": name.split("/")[0]} for name, content in pictures.items()]
    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), table, row_group_size=4)
    job = create_job(training_file=service.upload(table.getvalue(), "pets.parquet"))
    number = list(pictures).index("red_panda/3.png")
    assert colour_of(ask(job, f"pets.parquet/{number:07d}")) == 2
    rows = [
        {"image": f"data:image/png;base64,{b64encode(content).decode()}", "label": name.split("/")[0]}
        for name, content in pictures.items()
    ]
    job = create_job(training_file=service.upload("\n".join(map(json.dumps, rows)).encode(), "pets.jsonl"))
    assert colour_of(ask(job, f"manifest.jsonl/{number:07d}")) == 2
    others = {f"{name}/other.png": pictures[f"{name}/0.png"] for name in ("cat", "dog")}
    validation = service.upload(make_archive(others))
    job = create_job(training_file=service.upload(archive), validation_file=validation)
    assert colour_of(ask(job, "dog/other.png", source="validation")) == 1
    assert code_of(ask(job, "dog/other.png")) == (404, "image_not_found")


def test_an_image_of_a_test_dataset_is_shown(service, create_job, ask, pictures, make_archive):
    others = {f"{name}/other.png": pictures[f"{name}/0.png"] for name in ("cat", "dog")}
    test = {"dataset": service.upload(make_archive(others)), "name": "others"}
    job = create_job(extra_body={"num_steps": 2, "test_datasets": [test]})
    assert colour_of(ask(job, "dog/other.png", source="test-others")) == 1
    assert code_of(ask(job, "dog/0.png", source="test-others")) == (404, "image_not_found")
    unknown = ask(job, "dog/other.png", source="test-nobodys")
    assert "source may be dataset, test-others" in unknown.json()["error"]["message"]


def test_a_job_without_a_validation_file_has_no_image_of_one(create_job, ask):
    assert code_of(ask(create_job(), "cat/0.png", source="validation")) == (404, "image_not_found")


@pytest.mark.parametrize(
    "path",
    [
        "../pets/cat/0.png",
        "cat/../cat/0.png",
        "./cat/0.png",
        "/etc/passwd",
        "{root}/pets/cat/0.png",
        "cat",
        "cat/",
        "cat/0.png/",
        "cat\\0.png",
        "cat/0.png\x00",
        "link/1.png",
        ".hidden/0.png",
        "notes.txt",
    ],
)
def test_nothing_but_the_images_of_the_dataset_is_read(create_job, ask, dataset_root, pictures, path):
    folder = dataset_root / "guarded"
    if not folder.exists():
        for name, content in (pictures | {".hidden/0.png": pictures["cat/0.png"], "notes.txt": b"secret"}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    answer = ask(create_job(training_file=str(folder)), path.format(root=dataset_root))
    assert code_of(answer) == (404, "image_not_found")
    assert answer.json()["error"]["param"] == "path"


def test_a_link_that_came_into_the_folder_later_leads_nowhere(create_job, ask, tmp_path, dataset_root, pictures):
    folder = dataset_root / "changed"
    for name, content in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    job = create_job(training_file=str(folder))
    (tmp_path / "secret.png").write_bytes(pictures["cat/0.png"])
    (folder / "cat" / "link.png").symlink_to(tmp_path / "secret.png")
    assert code_of(ask(job, "cat/link.png")) == (404, "image_not_at_hand")


def test_a_dataset_that_is_gone_or_elsewhere_is_told(service, create_job, ask, dataset_root, pictures):
    job = create_job()
    service.write(_refer_to, job.id, "s3://bucket/pets")
    assert code_of(ask(job, "cat/0.png")) == (404, "image_not_at_hand")
    service.write(_refer_to, job.id, str(dataset_root / "gone"))
    answer = ask(job, "cat/0.png")
    assert code_of(answer) == (404, "image_not_at_hand")
    assert "There is nothing at" in answer.json()["error"]["message"]
    service.write(_refer_to, job.id, "file-deleted")
    assert code_of(ask(job, "cat/0.png")) == (404, "image_not_at_hand")


def test_a_dataset_at_an_open_address_is_not_fetched_to_be_shown(start_service, archive):
    service = start_service(dataset_urls=["s3://bucket/pets"])
    body = {"model": "tiny", "training_file": service.upload(archive), "num_steps": 2}
    job_id = service.http.post(JOBS, json=body).json()["id"]
    service.write(_refer_to, job_id, "s3://bucket/pets")
    answer = service.http.get(f"{JOBS}/{job_id}/images", params={"path": "cat/0.png"})
    assert code_of(answer) == (404, "image_not_at_hand")
    assert "lies elsewhere" in answer.json()["error"]["message"]


def test_the_mistakes_of_a_job_come_with_its_first_image(service, create_job, ask, dataset_root, pictures):
    """A listing may take seconds: the dataset is listed once for all of them."""
    folder = dataset_root / "mistakes"
    for name, content in (pictures | {"dog/broken.png": b"no picture"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    job = create_job(training_file=str(folder))
    service.write(_let_be_wrong_about, job.id, ["cat/0.png", "dog/1.png", "dog/broken.png", "gone.png"])
    assert colour_of(ask(job, "cat/0.png")) == 0
    for name in ("dog/1.png", "dog/2.png"):
        (folder / name).unlink()
    assert colour_of(ask(job, "dog/1.png")) == 1
    assert code_of(ask(job, "dog/2.png")) == (404, "image_not_found")
    assert code_of(ask(job, "dog/broken.png")) == (400, "invalid_image")


def test_a_picture_that_is_too_large_or_broken_is_refused(service, create_job, ask, pictures, make_archive):
    broken = pictures | {"cat/broken.png": b"no picture", "cat/heavy.png": bytes(service.settings.max_image_bytes + 1)}
    job = create_job(training_file=service.upload(make_archive(broken)))
    for name in ("broken", "heavy"):
        assert code_of(ask(job, f"cat/{name}.png")) == (400, "invalid_image")


def test_another_owner_gets_nothing(service, create_job):
    body = {"name": "stranger", "scopes": ["infer"], "owner": "mallory"}
    key = service.http.post("/v1/api_keys", json=body).json()["key"]
    place = f"{JOBS}/{create_job().id}/images"
    given = {"params": {"path": "cat/0.png"}, "headers": {"authorization": f"Bearer {key}"}}
    assert code_of(service.http.get(place, **given)) == (404, "job_not_found")


def _refer_to(session, job_id, reference):
    session.get(Job, job_id).training_file = reference


def _let_be_wrong_about(session, job_id, paths):
    mistakes = [{"path": path, "source": "dataset"} for path in paths]
    session.get(Job, job_id).result = {"tuned": {"trained_domains": {"all_classes": {"mistakes": mistakes}}}}
