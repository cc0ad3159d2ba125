"""A protocol over HTTP: a grid of ordinary jobs, one table, all or nothing."""

import pytest

from alignclip_store import runs

EVALUATIONS = "/v1/evaluations"


def group(accuracy, num_images, **more):
    return {"accuracy": accuracy, "num_images": num_images, "standard_error": 0.1} | more


@pytest.fixture(scope="module")
def grids(start_service, domain_archive):
    """A service of these tests' own, in which twelve jobs may wait."""
    service = start_service(max_queued_jobs=12)
    service.file_id = service.upload(domain_archive)
    return service


@pytest.fixture
def ask(grids):
    """Creates an evaluation of short jobs on the tiny model; fields of the body may be given."""

    def create(**fields):
        body = {"protocol": "domain_shift", "dataset": grids.file_id, "model": "tiny", "methods": ["finetune"]}
        return grids.http.post(EVALUATIONS, json=body | {"hyperparameters": {"num_steps": 4}} | fields)

    return create


@pytest.fixture(autouse=True)
def _empty_queue(grids):
    yield
    for evaluation in grids.http.get(EVALUATIONS).json()["data"]:
        grids.http.post(f"{EVALUATIONS}/{evaluation['id']}/cancel")


def test_a_grid_becomes_ordinary_jobs_that_carry_its_id(grids, ask):
    created = ask(name="which", methods=["zero_shot", "finetune:averaging=bma"], seeds=[3, 4]).json()
    assert (created["object"], created["status"], created["num_jobs"]) == ("evaluation", "queued", 8)
    assert created["num_shots"] is None
    cells = {(cell["method"], cell["target"], cell["seed"]): cell for cell in created["cells"]}
    assert len(cells) == 2 * 2 * 2
    job = grids.http.get(f"/v1/fine_tuning/jobs/{cells['finetune:averaging=bma', 'sketch', 4]['job_id']}").json()
    assert job["metadata"] == {"evaluation": created["id"], "method": "finetune:averaging=bma"}
    assert (job["algorithm"], job["seed"], job["test_domains"]) == ("finetune", 4, ["sketch"])
    assert (job["hyperparameters"]["averaging"], job["hyperparameters"]["num_steps"]) == ("bma", 4)
    zero_shot = grids.http.get(f"/v1/fine_tuning/jobs/{cells['zero_shot', 'photo', 3]['job_id']}").json()
    assert zero_shot["hyperparameters"]["num_steps"] == 0
    listed = grids.http.get("/v1/fine_tuning/jobs", params={"metadata[evaluation]": created["id"], "limit": 100}).json()
    assert {one["id"] for one in listed["data"]} == {cell["job_id"] for cell in created["cells"]}
    log = grids.http.get("/v1/audit_log", params={"object_id": created["id"]}).json()["data"]
    assert [entry["action"] for entry in log if entry["object_id"] == created["id"]] == ["evaluation.create"]


def test_results_come_together_in_one_table(grids, ask):
    created = ask(seeds=[0, 1], targets=["sketch"]).json()
    results = {0: 0.5, 1: 0.7}
    for cell in created["cells"]:  # in the order of the queue
        parts = {"in_split": {"accuracy": 0.25, "num_images": 12}}
        tuned = {"test_domains": {"trained_classes": group(results[cell["seed"]], 15, parts=parts)}}
        before = {"test_domains": {"trained_classes": group(0.4, 15)}}
        grids.finish(cell["job_id"], {"zero_shot": before, "tuned": tuned})
    answer = grids.http.get(f"{EVALUATIONS}/{created['id']}").json()
    assert (answer["status"], answer["num_finished"]) == ("succeeded", 2)
    assert {(cell["accuracy"], cell["num_images"], cell["zero_shot"]) for cell in answer["cells"]} == {
        (0.5, 15, 0.4),
        (0.7, 15, 0.4),
    }
    table, in_split = answer["tables"]
    assert table["rows"] == [["finetune", "60.0 ± 14.1", "2", "image tower"]]
    assert "| finetune | 60.0 ± 14.1 |" in table["markdown"]
    assert in_split["rows"][0][1] == "25.0 ± 0.0"


def test_base_and_new_classes_share_a_job(grids, ask):
    created = ask(protocol="unseen_classes", halves="ceil", test_fraction=0.4).json()
    assert [cell["target"] for cell in created["cells"]] == ["base", "new"]
    assert created["num_jobs"] == 1
    job = grids.http.get(f"/v1/fine_tuning/jobs/{created['cells'][0]['job_id']}").json()
    assert job["unseen_classes"] == ["red_panda"]
    assert created["cells"][0]["accuracy"] is None


@pytest.fixture
def subsets(grids, make_archive, pictures):
    """A function: the file id of an upload with the pictures of these classes alone."""

    def upload(name, *classes):
        return grids.upload(make_archive({path: pictures[path] for path in pictures if path.startswith(classes)}), name)

    return upload


def test_dataset_shift_has_a_column_for_each_test_dataset_and_a_job_for_each_method_and_seed(grids, ask, subsets):
    sketches, odd = subsets("my sketches.zip", "cat", "dog"), subsets("b.zip", "dog", "red_panda")
    tests = [sketches, {"dataset": odd, "name": "odd", "class_names": {"dog": ["dog", "hound"]}}]
    given = {"test_datasets": tests, "num_shots": 2, "methods": ["zero_shot", "finetune"], "seeds": [0, 1]}
    created = ask(protocol="dataset_shift", **given).json()
    assert (created["num_jobs"], len(created["cells"]), created["num_shots"]) == (4, 12, 2)
    assert created["test_datasets"] == [
        {"name": "my-sketches", "dataset": sketches, "class_names": None},
        {"name": "odd", "dataset": odd, "class_names": {"dog": "dog|hound", "red_panda": "red_panda"}},
    ]
    assert {cell["target"] for cell in created["cells"]} == {"source", "my-sketches", "odd"}
    job = grids.http.get(f"/v1/fine_tuning/jobs/{created['cells'][-1]['job_id']}").json()
    assert (job["training_file"], job["test_datasets"]) == (grids.file_id, created["test_datasets"])
    refused = grids.http.delete(f"/v1/files/{odd}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "file_in_use")

    for number, job_id in enumerate(dict.fromkeys(cell["job_id"] for cell in created["cells"])):
        tuned = {"my-sketches": group(0.5 + number / 10, 10), "odd": group(0.25, 10)}
        results = {
            name: {"test_images": {"trained_classes": group(0.75, 3)}, "test_datasets": tests}
            for name, tests in (("zero_shot", {"my-sketches": group(0.4, 10), "odd": group(0.2, 10)}), ("tuned", tuned))
        }
        grids.finish(job_id, results)
    answer = grids.http.get(f"{EVALUATIONS}/{created['id']}").json()
    (table,) = answer["tables"]
    assert table["columns"][:-2] == ["method", "my-sketches", "odd", "source", "average"]
    assert table["rows"][1][:4] == ["finetune", "70.0 ± 14.1", "25.0 ± 0.0", "75.0 ± 0.0"]
    by_target = {cell["target"]: cell for cell in answer["cells"]}
    assert (by_target["odd"]["zero_shot"], by_target["odd"]["num_images"]) == (0.2, 10)
    assert by_target["odd"]["split"] == "all images of odd, among its own classes"


def test_a_test_dataset_that_cannot_be_used_is_refused_by_its_place_and_nothing_is_queued(grids, ask, subsets):
    good, single = subsets("good.zip", "cat", "dog"), subsets("single.zip", "cat")
    key = grids.http.post("/v1/api_keys", json={"name": "other", "scopes": ["train"], "owner": "mallory"}).json()["key"]
    theirs = grids.http.post(
        "/v1/files",
        files={"file": ("theirs.zip", b"PK\5\6" + bytes(18))},
        data={"purpose": "fine-tune"},
        headers={"authorization": f"Bearer {key}"},
    ).json()["id"]
    before = grids.http.get("/v1/queue").json()["jobs"]
    for bad, param, words in (
        ("file-nobody", "test_datasets.1", "file-nobody"),
        (theirs, "test_datasets.1", "No file"),
        ("/etc", "test_datasets.1", "not below a dataset root"),
        (single, "test_datasets.1", "one class only"),
        ("", "test_datasets.1", "at least 1"),
        ({"dataset": good}, "test_datasets.1", "'good'; give one another name"),
        ({"dataset": good, "name": "source"}, "test_datasets", "'source' would name two columns"),
        ({"dataset": good, "name": "../up"}, "test_datasets.1.name", "pattern"),
        ({"dataset": good, "name": "a", "class_names": {"fox": "a"}}, "test_datasets.1.class_names", "'fox'"),
        ({"dataset": good, "name": "a", "class_names": {"cat": "dog"}}, "test_datasets.1.class_names", "same name"),
        ({"dataset": good, "names": "a"}, "test_datasets.1.names", "Extra"),
    ):
        answer = ask(protocol="dataset_shift", test_datasets=[good, bad])
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), answer.text
        assert words in error["message"]
    assert grids.http.get("/v1/queue").json()["jobs"] == before


def test_a_cell_whose_test_dataset_is_gone_is_not_tried_again(grids, ask, subsets):
    gone = subsets("gone.zip", "cat", "dog")
    created = ask(protocol="dataset_shift", test_datasets=[gone]).json()
    url = f"{EVALUATIONS}/{created['id']}"
    grids.http.post(f"{url}/cancel")
    assert grids.http.delete(f"/v1/files/{gone}").status_code == 200
    refused = grids.http.post(f"{url}/retry")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "test_datasets.0")
    assert "create the job anew" in refused.json()["error"]["message"]


def test_a_grid_over_the_queues_limit_is_refused_whole(grids, ask):
    before = grids.http.get("/v1/queue").json()["jobs"]
    refused = ask(seeds=list(range(7)))
    assert refused.status_code == 429
    assert "14 more jobs are too many" in refused.json()["error"]["message"]
    assert grids.http.get("/v1/queue").json()["jobs"] == before


def test_cancelling_ends_what_has_not_ended_and_keeps_what_is_measured(grids, ask):
    created = ask(seeds=[0], targets=["photo"]).json()
    other = ask(seeds=[1, 2], targets=["photo"]).json()
    url = f"{EVALUATIONS}/{other['id']}/cancel"
    cancelled = grids.http.post(url).json()
    assert (cancelled["status"], cancelled["num_finished"]) == ("cancelled", 2)
    assert cancelled["cancel_requested_at"]
    assert grids.http.post(url).json() == cancelled
    assert grids.http.get(f"{EVALUATIONS}/{created['id']}").json()["status"] == "queued"


def test_what_failed_or_was_cancelled_is_tried_again_and_what_is_measured_stays(grids, ask):
    created = ask(methods=["zero_shot", "finetune", "clipood"], targets=["sketch"]).json()
    url = f"{EVALUATIONS}/{created['id']}"
    first, second, _ = [cell["job_id"] for cell in created["cells"]]
    measured = {"test_domains": {"trained_classes": group(0.5, 15)}}
    grids.finish(first, {"zero_shot": measured, "tuned": measured})
    error = {"code": "training_diverged", "message": "The loss is not finite.", "param": None}
    grids.write(runs.finish, grids.claim(second), "failed", error=error)
    cancelled = grids.http.post(f"{url}/cancel").json()
    assert [cell["error"] for cell in cancelled["cells"]] == [None, error["message"], None]
    assert [cell["status"] for cell in cancelled["cells"]] == ["succeeded", "failed", "cancelled"]

    again = grids.http.post(f"{url}/retry").json()
    assert [cell["status"] for cell in again["cells"]] == ["succeeded", "queued", "queued"]
    assert (again["num_finished"], again["cancel_requested_at"], again["cells"][1]["error"]) == (1, None, None)
    assert again["tables"] == cancelled["tables"]
    assert grids.http.post(f"{url}/retry").json() == again
    log = grids.http.get("/v1/audit_log", params={"object_id": created["id"]}).json()["data"]
    retried = [entry for entry in log if entry["object_id"] == created["id"] and entry["action"] == "evaluation.retry"]
    assert [entry["after"] for entry in retried] == [{"num_jobs": 2}]


def test_no_more_is_tried_again_than_may_wait(grids, ask):
    created = ask(seeds=[0, 1, 2, 3]).json()
    grids.http.post(f"{EVALUATIONS}/{created['id']}/cancel")
    ask(seeds=[4, 5, 6])
    refused = grids.http.post(f"{EVALUATIONS}/{created['id']}/retry")
    assert refused.status_code == 429
    assert "8 more jobs are too many" in refused.json()["error"]["message"]
    kept = grids.http.get(f"{EVALUATIONS}/{created['id']}").json()
    assert (kept["status"], kept["num_finished"]) == ("cancelled", 8)


def test_pages_are_newest_first(grids, ask):
    first, second = (ask(targets=["photo"]).json()["id"] for _ in range(2))
    page = grids.http.get(EVALUATIONS, params={"limit": 1}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([second], True)
    page = grids.http.get(EVALUATIONS, params={"limit": 1, "after": second}).json()
    assert [one["id"] for one in page["data"]] == [first]
    unknown = grids.http.get(EVALUATIONS, params={"after": "eval-nobody"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "after")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"protocol": "dataset_drift"}, "protocol", "domain_shift"),
        ({"protocol": "dataset_shift"}, "test_datasets", "name them"),
        ({"protocol": "dataset_shift", "test_datasets": []}, "test_datasets", "name them"),
        ({"test_datasets": ["file-nobody"]}, "test_datasets", "only dataset_shift"),
        ({"methods": ["alinclip"]}, "methods", "Unknown method"),
        ({"methods": ["finetune", "finetune"]}, "methods", "name each once"),
        ({"methods": []}, "methods", "at least 1"),
        ({"targets": ["chalk"]}, "targets", "known: photo, sketch"),
        ({"dataset": "file-nobody"}, "dataset", "file-nobody"),
        ({"hyperparameters": {"num_stepps": 4}}, "num_stepps", "did you mean"),
        ({"hyperparameters": {"num_steps": -1}}, "num_steps", "between"),
        ({"model": "nobody"}, "model", "nobody"),
        ({"sedes": [1]}, "sedes", "Extra"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_field(grids, ask, fields, param, words):
    answer = ask(**fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), answer.text
    assert words in error["message"]
