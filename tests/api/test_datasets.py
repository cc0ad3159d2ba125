"""The report on a dataset over HTTP: what is in it and what is wrong, before a job."""

import threading

import pytest

DATASETS = "/v1/datasets"
MAX_IMAGES = 20


@pytest.fixture(scope="module")
def looking(start_service):
    """A service of these tests' own that decodes twenty images of a dataset at most."""
    return start_service(max_report_images=MAX_IMAGES)


@pytest.fixture
def ask(looking):
    """Asks for the report on an archive; fields of the body may be given."""

    def report(content, **fields):
        body = {"dataset": looking.upload(content), "model": "tiny"} | fields
        return looking.http.post(DATASETS, json=body)

    return report


def codes(report):
    return {finding["code"]: finding for finding in report["findings"]}


def test_a_report_counts_and_is_kept(looking, ask, domain_archive):
    made = ask(domain_archive, test_domains=["sketch"], class_names={"red_panda": "red panda"}).json()
    assert (made["object"], made["num_images"], made["num_checked"]) == ("dataset", 30, MAX_IMAGES)
    assert made["num_compared"] == MAX_IMAGES
    assert made["fingerprint"] is None  # not all were looked at
    assert {"name": "red_panda", "display_name": "red panda", "num_images": 10} in made["classes"]
    assert made["domains"] == [{"name": "photo", "num_images": 15}, {"name": "sketch", "num_images": 15}]
    parts = {part["name"]: part["num_images"] for part in made["splits"]}
    assert parts == {"test_domains": 15, "train": 12, "validation": 3}
    assert made["similarity"]["labels"] == ["cat", "dog", "red panda"]
    assert looking.http.get(f"{DATASETS}/{made['id']}").json() == made
    assert made in looking.http.get(DATASETS).json()["data"]
    assert looking.http.delete(f"{DATASETS}/{made['id']}").json() == {
        "id": made["id"],
        "object": "dataset",
        "deleted": True,
    }
    assert looking.http.get(f"{DATASETS}/{made['id']}").status_code == 404


def test_faults_are_found_and_a_job_with_a_fatal_one_is_refused_in_the_same_words(looking, ask, make_archive, pictures):
    spoiled = make_archive({**pictures, "cat/copy.png": pictures["dog/1.png"], "dog/broken.png": b"no image"})
    found = codes(ask(spoiled).json())
    assert found["image_unreadable"]["severity"] == "fatal"
    assert found["image_unreadable"]["paths"] == ["dog/broken.png"]
    assert found["duplicate_with_other_label"]["paths"] == ["cat/copy.png", "dog/1.png"]
    empty = make_archive({**pictures, "owl/": b""})
    report = ask(empty).json()
    assert codes(report)["invalid_dataset"]["severity"] == "fatal"
    refused = looking.http.post(
        "/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": looking.upload(empty), "num_steps": 2}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "invalid_dataset"
    assert refused.json()["error"]["message"] == codes(report)["invalid_dataset"]["message"]


def test_copies_between_a_dataset_and_its_validation_file_are_named(looking, ask, pictures, make_archive):
    validation = make_archive({"top/cat/9.png": pictures["cat/0.png"]})
    made = ask(make_archive(pictures), validation_file=looking.upload(validation), test_fraction=0.2).json()
    assert {part["name"]: part["num_images"] for part in made["splits"]} == {
        "test_images": 3,
        "train": 12,
        "validation": 1,
    }
    assert codes(made)["duplicate_across_splits"]["paths"] == ["cat/0.png", "validation_file/top/cat/9.png"]


def test_a_dataset_of_too_many_bytes_is_refused_with_what_to_do_instead(start_service, archive):
    service = start_service(max_report_bytes=1000)
    refused = service.http.post(DATASETS, json={"dataset": service.upload(archive), "model": "tiny"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "dataset_rejected", "dataset")
    assert "at most 1,000 are fetched" in error["message"]
    assert "alignclip dataset check PATH_OR_URL" in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "nowhere"}, "model"),
        ({"validation_file": "file-nowhere"}, "validation_file"),
        ({"test_fraction": 2}, "test_fraction"),
        ({"dataset": "file-nowhere"}, "dataset"),
        ({"dataset": "/etc"}, "dataset"),
        ({"test_domains": ["sketch"]}, "test_domains"),
        ({"class_names": {"owl": "owl"}}, "class_names"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_requests_that_fit_nothing_are_refused_with_the_field(ask, archive, fields, param):
    answer = ask(archive, **fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_second_report_at_the_same_time_is_asked_to_wait(looking, ask, domain_archive):
    lock = looking.app.state.resources.reporting
    with lock:
        answer = ask(domain_archive)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert ask(domain_archive).status_code == 200


def test_reports_leave_no_files_behind(looking, ask, archive):
    threads = [threading.Thread(target=ask, args=(archive,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(looking.settings.home_dir.glob("uploads/*/.report-*")) == []
