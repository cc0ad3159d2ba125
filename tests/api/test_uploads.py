"""Large files in parts, through the official client."""

import hashlib
from datetime import timedelta

import pytest
from openai import BadRequestError, NotFoundError, RateLimitError
from sqlalchemy import select, update

from alignclip_store.database import database_now, transaction
from alignclip_store.tables import Upload, UploadPart
from worker.housekeeping import keep_house


@pytest.fixture
def upload(openai, archive):
    """A pending upload of the pictures."""
    return openai.uploads.create(
        bytes=len(archive), filename="pets.zip", mime_type="application/zip", purpose="fine-tune"
    )


def _parts(openai, upload, archive, num_bytes):
    chunks = [archive[start : start + num_bytes] for start in range(0, len(archive), num_bytes)]
    return [openai.uploads.parts.create(upload.id, data=chunk).id for chunk in chunks]


def _stored_parts(service):
    return list((service.settings.home_dir / "artifacts" / "uploads").rglob("part-*"))


def test_the_clients_chunked_upload_becomes_a_file_that_trains(service, openai, archive, create_job, tmp_path):
    (tmp_path / "pets.zip").write_bytes(archive)
    done = openai.uploads.upload_file_chunked(
        file=tmp_path / "pets.zip", mime_type="application/zip", purpose="fine-tune", part_size=5000
    )
    assert (done.status, done.bytes, done.filename) == ("completed", len(archive), "pets.zip")
    assert openai.files.content(done.file.id).content == archive
    assert openai.files.retrieve(done.file.id) == done.file
    assert create_job(training_file=done.file.id).status == "queued"
    assert _stored_parts(service) == []


def test_parts_are_put_together_as_they_are_named_and_a_repeat_is_the_same(openai, archive, upload):
    assert (upload.status, upload.file) == ("pending", None)
    half = len(archive) // 2
    second = openai.uploads.parts.create(upload.id, data=archive[half:])
    first = openai.uploads.parts.create(upload.id, data=archive[:half])
    assert (first.object, first.upload_id) == ("upload.part", upload.id)
    openai.uploads.parts.create(upload.id, data=archive[:half])  # a client that lost an answer sends it again
    md5 = hashlib.md5(archive).hexdigest()
    done = openai.uploads.complete(upload.id, part_ids=[first.id, second.id], md5=md5)
    assert openai.files.content(done.file.id).content == archive
    assert openai.uploads.complete(upload.id, part_ids=[first.id, second.id]) == done


def test_a_cancelled_upload_is_gone(service, openai, archive, upload):
    parts = _parts(openai, upload, archive, 9000)
    assert openai.uploads.cancel(upload.id).status == "cancelled"
    assert openai.uploads.cancel(upload.id).status == "cancelled"
    assert _stored_parts(service) == []
    with pytest.raises(BadRequestError, match="is cancelled; create a new one"):
        openai.uploads.complete(upload.id, part_ids=parts)
    with pytest.raises(BadRequestError, match="is cancelled"):
        openai.uploads.parts.create(upload.id, data=archive[:100])


def test_what_is_not_the_whole_is_refused(openai, archive, upload):
    parts = _parts(openai, upload, archive, 9000)
    for wrong, message in (
        (parts[:-1], "were announced"),
        ([*parts, "part-none"], "has no part 'part-none'"),
        ([*parts, parts[0]], "names a part twice"),
    ):
        with pytest.raises(BadRequestError, match=message) as caught:
            openai.uploads.complete(upload.id, part_ids=wrong)
        assert caught.value.param == "part_ids"
    with pytest.raises(BadRequestError, match="The md5 of the parts is") as caught:
        openai.uploads.complete(upload.id, part_ids=parts, md5="0" * 32)
    with pytest.raises(BadRequestError, match=r"'pets\.zip': The") as caught:
        openai.uploads.complete(upload.id, part_ids=parts[::-1])
    assert caught.value.param == "file"
    assert openai.uploads.complete(upload.id, part_ids=parts).status == "completed"


def test_more_bytes_than_were_announced_are_refused(service, openai, archive, upload):
    with pytest.raises(BadRequestError, match=r"more than the .* bytes that were announced"):
        openai.uploads.parts.create(upload.id, data=archive + b"1")
    with pytest.raises(BadRequestError, match=r"The part has 0 bytes"):
        openai.uploads.parts.create(upload.id, data=b"")
    with pytest.raises(BadRequestError, match="at most"):
        openai.uploads.create(bytes=2**50, filename="x.zip", mime_type="application/zip", purpose="fine-tune")
    with pytest.raises(BadRequestError, match="purpose"):
        openai.uploads.create(bytes=2, filename="x.zip", mime_type="application/zip", purpose="batch")
    openai.uploads.cancel(upload.id)
    assert _stored_parts(service) == []


def test_an_upload_that_is_never_completed_expires_and_takes_no_room(service, openai, archive, upload):
    parts = _parts(openai, upload, archive, 9000)
    with transaction(service.engine) as session:
        past = database_now(session) - timedelta(hours=1)
        session.execute(update(Upload).where(Upload.id == upload.id).values(expires_at=past))
    with pytest.raises(BadRequestError, match="is expired"):
        openai.uploads.complete(upload.id, part_ids=parts)
    keep_house(service.engine, service.artifacts, service.settings)
    with transaction(service.engine) as session:
        assert session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id)).all() == []
    assert _stored_parts(service) == []
    assert openai.uploads.cancel(upload.id).status == "cancelled"


def test_an_unknown_upload_is_not_found(openai):
    with pytest.raises(NotFoundError):
        openai.uploads.parts.create("upload-none", data=b"1")


def test_parts_count_as_stored_bytes_and_the_file_takes_their_place(start_service, archive):
    service = start_service(max_stored_bytes=len(archive) + 10)
    create, parts = service.openai.uploads.create, service.openai.uploads.parts
    given = {"filename": "a.zip", "mime_type": "application/zip", "purpose": "fine-tune", "bytes": len(archive)}
    upload = create(**given)
    part = parts.create(upload.id, data=archive)
    with pytest.raises(RateLimitError, match="are stored; at most"):
        create(**given)
    assert service.openai.uploads.complete(upload.id, part_ids=[part.id]).status == "completed"
    with pytest.raises(RateLimitError, match="are stored; at most"):
        create(**given)
