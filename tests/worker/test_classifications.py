"""Classifications by real workers: to their answers, through a cancel, a stop and a kill."""

import hashlib
import json
import os
import signal

import numpy as np
import pytest

from alignclip_store.checkpoints import all_checkpoints
from alignclip_store.database import reading, transaction
from alignclip_store.job_kinds import JobKind
from alignclip_store.jobs import request_cancel
from alignclip_store.queue import wake
from alignclip_store.result_files import get_result_file
from alignclip_store.runs import reap

PLAIN = {"serving_runtime": "torch", "serving_precision": "fp32", "serving_device": "cpu"}


@pytest.fixture(scope="module")
def many(pack, pictures):
    """Seventy pictures in an archive: two batches of 32 and a rest."""
    one = next(iter(pictures.values()))
    return pack({f"blue/{number:02}.png": one for number in range(70)})


def lines_of(service, job_id):
    with reading(service.engine) as session:
        file = get_result_file(session, "owner", job_id)
    with service.artifacts.open(file.artifact_uri) as opened:
        content = opened.read()
    assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.num_bytes)
    return [json.loads(line) for line in content.splitlines()]


def test_a_tuned_model_answers_for_every_image_and_broken_ones_end_nothing(
    make_service, archive, archive_with_bad_images, pictures
):
    service = make_service(**PLAIN)
    service.start_worker()
    tuned = service.wait_for_end(service.submit(archive, num_steps=1))
    assert tuned.status == "succeeded", service.logs()

    job = service.wait_for_end(service.ask(archive_with_bad_images, tuned.model_id))

    assert job.status == "succeeded", (job.error, service.logs())
    lines = lines_of(service, job.id)
    bad = {f"red/broken-{number}.png" for number in range(3)}
    assert [line["path"] for line in lines] == sorted({*pictures, *bad})
    assert {line["path"] for line in lines if "error" in line} == bad
    answered = [line for line in lines if "error" not in line]
    assert all(line["label"] == line["path"].partition("/")[0] for line in answered)
    assert all(len(line["predictions"]) == 2 for line in answered)
    assert (job.result["num_images"], job.result["num_failed"], job.step) == (15, 3, 15)
    right = np.mean([line["predictions"][0]["label"] == line["label"] for line in answered])
    assert job.result["accuracy"] == pytest.approx(right)
    assert job.model_id == tuned.model_id
    assert [run.outcome for run in service.runs(job.id)] == ["succeeded"]
    messages = [event.message for event in service.events(job.id)]
    assert messages[0] == f"Created classification: {job.id}"
    assert "12 images are classified, 3 cannot be read." in messages
    assert messages[-1] == "The job has successfully completed."
    service.wait_for_no_run_folder()


def test_a_cancel_ends_the_process_and_leaves_no_answers(make_service, many, is_gone):
    service = make_service(stop_seconds=0.5, **PLAIN)
    service.arm("mid_step")
    service.start_worker()
    job_id = service.ask(many)
    process = service.wait_held("mid_step")
    assert process.pid == service.trainer(job_id).pid

    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id, kind=JobKind.CLASSIFICATION)

    job = service.wait_for_end(job_id)
    assert (job.status, job.result) == ("cancelled", None)
    assert is_gone(process)
    assert [run.outcome for run in service.runs(job_id)] == ["cancelled"]


def test_a_stopped_worker_leaves_its_lines_and_the_next_one_goes_on_behind_them(make_service, many, is_gone):
    service = make_service(**PLAIN)
    service.arm("mid_step", "2")
    first = service.start_worker("first")
    job_id = service.ask(many)
    process = service.wait_held("mid_step")
    service.wait(job_id, lambda job: job.phase == "classifying")  # or it would be told after the next phase

    first.send_signal(signal.SIGTERM)
    service.wait(job_id, lambda job: job.phase == "stopping")
    service.release("mid_step")

    job = service.wait(job_id, lambda job: job.status == "queued")
    assert is_gone(process)
    assert job.num_lost_runs == 0
    with reading(service.engine) as session:
        assert [checkpoint.step for checkpoint in all_checkpoints(session, job_id)] == [64]
    service.start_worker("second")
    wake(service.queue, job_id)
    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert [run.outcome for run in service.runs(job_id)] == ["stopped", "succeeded"]
    assert "Going on from image 64 of 70." in [event.message for event in service.events(job_id)]
    assert [line["path"] for line in lines_of(service, job_id)] == [f"blue/{number:02}.png" for number in range(70)]


def test_a_killed_worker_takes_its_process_along_and_the_answers_are_those_of_one_run(make_service, many, is_gone):
    service = make_service(**PLAIN)
    service.arm("before_finish_commit")
    worker = service.start_worker("first")
    job_id = service.ask(many)
    child = service.wait_held("before_finish_commit")
    os.killpg(worker.pid, signal.SIGKILL)
    assert is_gone(worker)
    assert is_gone(child)
    assert service.job(job_id).status == "running"
    service.let_lease_lapse(job_id)
    with transaction(service.engine) as session:
        assert reap(session, service.settings) == [job_id]

    service.start_worker("second")
    wake(service.queue, job_id)

    job = service.wait_for_end(job_id)
    assert job.status == "succeeded", service.logs()
    assert [run.outcome for run in service.runs(job_id)] == ["lost", "succeeded"]
    lines = lines_of(service, job_id)
    assert len({line["path"] for line in lines}) == len(lines) == 70
    with reading(service.engine) as session:
        assert get_result_file(session, "owner", job_id).artifact_uri.endswith("/run-2/results.jsonl")
    service.wait_for_no_run_folder()


def test_a_model_that_is_gone_is_named(make_service, archive):
    service = make_service(**PLAIN)
    service.start_worker()
    job = service.wait_for_end(service.ask(archive, "ft:tiny:owner:gone:1"))
    assert (job.status, job.error["code"]) == ("failed", "model_not_found")
