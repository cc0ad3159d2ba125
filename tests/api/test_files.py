"""Files through the official client: every call of it, and what is refused."""

import pytest
from openai import BadRequestError, NotFoundError


def test_file_comes_back_as_it_was_sent(openai, archive):
    created = openai.files.create(file=("pets.zip", archive), purpose="fine-tune")
    assert (created.object, created.purpose, created.status) == ("file", "fine-tune", "processed")
    assert (created.bytes, created.filename) == (len(archive), "pets.zip")
    assert openai.files.retrieve(created.id) == created
    assert openai.files.wait_for_processing(created.id) == created
    assert openai.files.content(created.id).read() == archive


def test_upload_of_many_megabytes_goes_to_disk_and_back(openai, make_archive, service):
    content = make_archive({"cat/1.png": b"c" * 9_000_000, "dog/1.png": b"d" * 9_000_000})
    file = openai.files.create(file=("large.zip", content), purpose="fine-tune")
    assert openai.files.content(file.id).read() == content
    assert list((service.settings.home_dir / "uploads").glob("*/*")) == []


def test_files_page_newest_first_over_three_pages(start_service, archive):
    service = start_service()
    made = [service.upload(archive, f"{number}.zip") for number in range(5)]
    first = service.openai.files.list(limit=2)
    assert first.has_more
    assert [file.id for file in first] == made[::-1]
    assert [file.id for file in service.openai.files.list(limit=2, order="asc")] == made
    assert [file.id for file in service.openai.files.list(purpose="batch")] == []


def test_deleted_file_is_gone(openai, archive, service):
    file = openai.files.create(file=("pets.zip", archive), purpose="fine-tune")
    deleted = openai.files.delete(file.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file.id, "file", True)
    for call in (openai.files.retrieve, openai.files.delete, openai.files.content):
        with pytest.raises(NotFoundError) as caught:
            call(file.id)
        assert caught.value.code == "file_not_found"
    assert not (service.settings.home_dir / "artifacts" / "files" / f"{file.id}.zip").exists()


def test_file_of_an_unfinished_job_cannot_be_deleted(openai, create_job, file_id):
    create_job(training_file=file_id)
    with pytest.raises(BadRequestError) as caught:
        openai.files.delete(file_id)
    assert caught.value.code == "file_in_use"


def test_second_try_of_an_upload_gets_the_first_file(http, archive):
    def post(count):
        form = {"files": {"file": ("again.zip", archive)}, "data": {"purpose": "fine-tune"}}
        return http.post("/v1/files", headers={"x-stainless-retry-count": count}, **form).json()["id"]

    assert post("0") != (second := post("0"))
    assert post("1") == second


@pytest.mark.parametrize(
    ("content", "purpose", "param", "words"),
    [
        (b"this is no zip at all", "fine-tune", "file", "not a zip"),
        (b"", "fine-tune", "file", "empty"),
        (None, "assistants", "purpose", "'assistants'"),
    ],
)
def test_upload_that_is_no_dataset_is_refused(openai, archive, content, purpose, param, words):
    with pytest.raises(BadRequestError, match=words) as caught:
        openai.files.create(file=("pets.zip", archive if content is None else content), purpose=purpose)
    assert caught.value.param == param


def test_archive_that_leads_out_of_its_folder_is_refused_with_the_member(openai, make_archive, picture):
    with pytest.raises(BadRequestError, match=r"\.\./evil\.png") as caught:
        openai.files.create(file=("evil.zip", make_archive({"cat/../../evil.png": picture})), purpose="fine-tune")
    assert caught.value.param == "file"


def test_expiry_is_refused_and_not_forgotten(openai, archive):
    expiry = {"anchor": "created_at", "seconds": 3600}
    with pytest.raises(BadRequestError) as caught:
        openai.files.create(file=("pets.zip", archive), purpose="fine-tune", expires_after=expiry)
    assert caught.value.param == "expires_after"


def test_form_without_a_file_and_body_of_another_kind_are_refused(http):
    missing = http.post("/v1/files", files={"other": b"x"}, data={"purpose": "fine-tune"})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "file")
    assert http.post("/v1/files", json={"purpose": "fine-tune"}).status_code == 415
    broken = http.post("/v1/files", content=b"rubbish", headers={"content-type": "multipart/form-data"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_multipart")
