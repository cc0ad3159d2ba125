"""From a job's row to a run directory, or to a clear word why not. No trainer starts here."""

import json

import pytest

from alignclip_core.errors import ArtifactCorrupt, BaseModelUnknown
from alignclip_core.run_dir import ClassSimilarity
from alignclip_store.database import transaction
from alignclip_store.jobs import request_cancel
from alignclip_store.runs import record_checkpoint
from alignclip_store.similarities import get_similarity
from worker import tasks
from worker.outcome import RunStopped
from worker.run_folders import held_folder
from worker.staging import stage


@pytest.fixture
def staged_run(service, claim_run):
    """Claims the queued job and holds its run directory."""
    run = claim_run()
    with held_folder(run.run_dir.path):
        yield run


@pytest.fixture
def queued_job(service, archive):
    return service.submit(archive, wakes=False, num_steps=7)


def folder_of(tmp_path, pictures, name):
    for path, content in pictures.items():
        (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name / path).write_bytes(content)
    return tmp_path / name


def test_the_run_directory_holds_what_the_trainer_reads(service, queued_job, staged_run, pictures):
    assert stage(staged_run) is None
    run_dir = staged_run.run_dir
    assert run_dir.read_config().num_steps == 7
    found = {path.relative_to(run_dir.dataset).as_posix() for path in run_dir.dataset.rglob("*.png")}
    assert found == set(pictures)
    with transaction(service.engine) as session:
        expected = get_similarity(session, "owner", service.job(queued_job).similarity_id).sha256
    assert ClassSimilarity.load(run_dir.similarity_file).sha256 == expected
    assert not run_dir.validation.exists()
    assert not run_dir.checkpoints.exists()


def test_a_base_model_that_is_not_allowed_any_more_is_refused_by_the_worker_too(make_service, archive, claim_run):
    service = make_service(allowed_base_models=["starter"])
    service.submit(archive, wakes=False)
    run = claim_run(service)
    with held_folder(run.run_dir.path), pytest.raises(BaseModelUnknown, match="it allows: starter"):
        stage(run)


def test_a_dataset_below_a_root_is_copied_and_its_source_stays(make_service, tmp_path, pictures, claim_run):
    source = folder_of(tmp_path, pictures | {"red/broken.png": b"no picture"}, "opened/colours")
    service = make_service(dataset_roots=[tmp_path / "opened"])
    service.submit(str(source), wakes=False, skip_bad_images=True)
    run = claim_run(service)
    with held_folder(run.run_dir.path):
        stage(run)
        assert len(list(run.run_dir.dataset.rglob("*.png"))) == len(pictures)
        assert not any(path.is_symlink() for path in run.run_dir.dataset.rglob("*"))
    assert (source / "red/broken.png").is_file()


def test_a_validation_set_lies_beside_the_dataset(service, archive, claim_run):
    service.submit(archive, validation=archive, wakes=False)
    run = claim_run()
    with held_folder(run.run_dir.path):
        stage(run)
        assert len(list(run.run_dir.validation.rglob("*.png"))) == 12
    assert "24 images are good: 12 of them train." in [event.message for event in service.events(run.claim.job_id)]


def test_test_datasets_lie_beside_the_dataset_and_are_kept_with_the_job(service, pictures, archive, pack, claim_run):
    subset = {path: content for path, content in pictures.items() if path.startswith(("red/", "blue/"))}
    job_id = service.submit(archive, test_datasets={"subset": pack(subset), "whole": archive}, wakes=False)
    run = claim_run()
    with held_folder(run.run_dir.path):
        stage(run)
        assert run.run_dir.test_datasets == ("subset", "whole")
        folder = run.run_dir.test_dataset("subset")
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == set(subset)
    dataset = service.job(job_id).dataset
    assert dataset["test_fingerprints"]["whole"] == dataset["fingerprint"] != dataset["test_fingerprints"]["subset"]
    assert dataset["num_images"] == len(pictures)


def test_a_bad_image_of_a_test_dataset_refuses_the_job_and_is_named(
    service, workplace, archive, archive_with_bad_images
):
    tests = {"good": archive, "bad": archive_with_bad_images}
    job_id = service.submit(archive, test_datasets=tests, wakes=False)
    tasks.work(workplace)
    error = service.job(job_id).error
    assert (error["code"], error["param"]) == ("invalid_image", "test_datasets.1")
    assert "3 of 15 images cannot be used: red/broken-0.png" in error["message"]


def test_a_matrix_that_is_not_the_jobs_is_refused(service, queued_job, staged_run):
    with transaction(service.engine) as session:
        get_similarity(session, "owner", service.job(queued_job).similarity_id).sha256 = "0" * 64
    with pytest.raises(ArtifactCorrupt, match="does not fit its recorded hash"):
        stage(staged_run)


def test_the_newest_checkpoint_that_is_complete_is_the_one_to_go_on_from(service, queued_job, staged_run, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"step": 2}))
    uri = service.artifacts.put_folder(folder, "jobs/a/step-000002")
    with transaction(service.engine) as session:
        record_checkpoint(session, staged_run.claim, step=2, artifact_uri=uri, metrics={})
        record_checkpoint(session, staged_run.claim, step=4, artifact_uri="artifact:jobs/a/gone", metrics={})
    assert stage(staged_run) == 2
    assert [step for step, _ in staged_run.run_dir.list_checkpoints()] == [2]
    warnings = [event.message for event in service.events(queued_job) if event.level == "warn"]
    assert warnings == ["The checkpoint of step 4 is not complete and was left out."]


def test_staging_stops_for_a_shutdown(queued_job, staged_run):
    staged_run.workplace.shutting_down.set()
    with pytest.raises(RunStopped):
        stage(staged_run)


def test_a_bad_image_refuses_the_job_and_is_named(service, workplace, archive_with_bad_images):
    job_id = service.submit(archive_with_bad_images, wakes=False)
    tasks.work(workplace)
    job = service.job(job_id)
    assert job.status == "failed"
    assert (job.error["code"], job.error["param"]) == ("invalid_image", "training_file")
    assert "3 of 15 images cannot be used" in job.error["message"]
    assert "red/broken-0.png (The bytes are no image" in job.error["message"]
    assert [run.outcome for run in service.runs(job_id)] == ["failed"]


def test_a_class_that_is_left_without_images_refuses_the_job(service, workplace, pictures, pack):
    broken = {path: b"no picture" if path.startswith("red/") else content for path, content in pictures.items()}
    job_id = service.submit(pack(broken), wakes=False, skip_bad_images=True)
    tasks.work(workplace)
    job = service.job(job_id)
    assert (job.status, job.error["code"]) == ("failed", "invalid_dataset")
    assert "'red'" in job.error["message"]


def test_a_file_whose_content_is_gone_fails_the_job(service, workplace, archive):
    job_id = service.submit(archive, wakes=False)
    service.artifacts.delete(f"artifact:files/{service.job(job_id).training_file}")
    tasks.work(workplace)
    assert service.job(job_id).error["code"] == "artifact_missing"


def test_a_cancel_before_the_trainer_starts_cancels(service, archive, claim_run):
    job_id = service.submit(archive, wakes=False)
    run = claim_run()
    with transaction(service.engine) as session:
        request_cancel(session, "owner", job_id)
    service.wait(job_id, lambda _: run.lease.wish)
    tasks.conclude(run, tasks.perform(run))
    assert service.job(job_id).status == "cancelled"
    assert not run.run_dir.path.exists()


def test_a_worker_goes_on_until_nothing_is_queued(service, workplace, archive_with_bad_images):
    job_ids = [service.submit(archive_with_bad_images, wakes=False) for _ in range(3)]
    tasks.work(workplace)
    assert [service.job(job_id).status for job_id in job_ids] == ["failed"] * 3


def test_a_worker_that_shuts_down_claims_nothing(service, workplace, archive):
    job_id = service.submit(archive, wakes=False)
    workplace.shutting_down.set()
    tasks.work(workplace)
    assert service.job(job_id).status == "queued"


def test_the_datasets_fingerprint_and_split_are_kept_with_the_job(service, queued_job, staged_run, pictures):
    stage(staged_run)
    dataset = service.job(queued_job).dataset
    assert dataset["num_images"] == len(pictures) == sum(dataset["parts"].values())
    with service.artifacts.open(dataset["split_uri"]) as file:
        manifest = json.load(file)
    assert {row[1] for row in manifest["images"]} == set(pictures)
    assert manifest["sha256"] == dataset["split_sha256"]


def test_the_same_images_have_the_same_fingerprint_in_another_form(
    make_service, tmp_path, pictures, archive, claim_run
):
    source = folder_of(tmp_path, pictures, "opened/colours")
    service = make_service(dataset_roots=[tmp_path / "opened"])
    found = []
    for reference in (archive, str(source)):
        job_id = service.submit(reference, wakes=False)
        run = claim_run(service)
        with held_folder(run.run_dir.path):
            stage(run)
        found.append({key: value for key, value in service.job(job_id).dataset.items() if key != "split_uri"})
    assert found[0] == found[1]
