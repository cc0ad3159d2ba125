"""What a fine-tune would take."""

import pytest

from alignclip_store import runs


def estimate(service, file_id, **fields):
    body = {"model": "tiny", "training_file": file_id, "num_steps": 100, "batch_size": 8, **fields}
    return service.http.post("/v1/fine_tuning/estimate", json=body)


@pytest.fixture(scope="module")
def lonely_service(start_service):
    """A service whose measured speed is this module's alone; one job may wait."""
    return start_service(max_queued_jobs=1)


def test_an_estimate_queues_nothing_and_learns_from_what_was_measured(lonely_service, archive):
    service = lonely_service
    file_id = service.upload(archive)
    first = estimate(service, file_id).json()
    assert (first["num_steps"], first["batch_size"], first["measured_on"]) == (100, 8, None)
    assert first["allowed_to_proceed"] is True
    assert service.openai.fine_tuning.jobs.list().data == []

    job = service.openai.fine_tuning.jobs.create(model="tiny", training_file=file_id)
    refused = estimate(service, file_id).json()
    assert refused["allowed_to_proceed"] is False
    assert "1 jobs wait already" in refused["reasons"][0]

    claim = service.claim(job.id)
    service.write(runs.start_training, claim)
    values = {"images_per_second": first["images_per_second"] * 2}
    service.write(runs.record_metrics, claim, [{"step": 1, "kind": "train", "values": values}])
    measured = estimate(service, file_id).json()
    assert measured["measured_on"] == "cpu"
    assert measured["wall_seconds"] < first["wall_seconds"]
    assert measured["start_estimate"] is not None
    service.write(runs.finish, claim, "cancelled")


def test_memory_grows_with_the_batch_and_the_alignment_and_disk_does_not(service, file_id):
    small, large = (estimate(service, file_id, batch_size=size).json() for size in (4, 8))
    assert large["peak_gpu_bytes"] > small["peak_gpu_bytes"] > 0
    assert large["disk_bytes"] == small["disk_bytes"] > 0
    pieces = estimate(service, file_id, batch_size=8, micro_batch_size=4).json()
    assert pieces["peak_gpu_bytes"] == small["peak_gpu_bytes"]
    plain = estimate(service, file_id, batch_size=8, algorithm="finetune").json()
    assert plain["peak_gpu_bytes"] < large["peak_gpu_bytes"]


def test_the_starter_whose_files_are_its_own_kind_is_estimated_too(service, file_id):
    answer = estimate(service, file_id, model="starter").json()
    assert answer["peak_gpu_bytes"] > 10**8  # of 9 million parameters
    assert answer["disk_bytes"] > 10**8


def test_other_datasets_are_seen_before_and_after_in_a_third_of_a_step_s_time(lonely_service, archive, pictures):
    file_id = lonely_service.upload(archive)
    tests = [{"dataset": file_id, "name": f"copy-{number}"} for number in range(8)]
    for steps, num_looks in ((100, 2), (0, 1)):
        given = {"num_steps": steps} if steps else {"num_steps": None, "algorithm": "zero_shot"}
        alone = estimate(lonely_service, file_id, **given).json()
        beside = estimate(lonely_service, file_id, test_datasets=tests, **given).json()
        seconds = num_looks * 8 * len(pictures) / 3 / alone["images_per_second"]
        assert seconds > 0.5
        assert beside["wall_seconds"] - alone["wall_seconds"] == pytest.approx(seconds, abs=0.11)


def test_memory_and_disk_count_what_is_trained_and_what_the_average_holds(service, file_id):
    given = {"algorithm": "finetune", "averaging": "bma", "precision": "fp32", "validation_fraction": 0.5}
    found = {
        name: estimate(service, file_id, **given | fields).json()
        for name, fields in {
            "bma": {}, "none": {"averaging": "none"}, "swad": {"averaging": "swad"},
            "last": {"trainable": "last_k_blocks", "trainable_blocks": 2}, "lora": {"trainable": "lora"},
            "query_key": {"trainable": "query_key"}, "checkpointing": {"gradient_checkpointing": True},
            "half": {"precision": "bf16"},
        }.items()
    }  # fmt: skip
    memory = {name: answer["peak_gpu_bytes"] for name, answer in found.items()}
    disk = {name: answer["disk_bytes"] for name, answer in found.items()}
    copy = memory["bma"] - memory["none"]  # of the image tower's weights in fp32
    assert memory["swad"] - memory["none"] == 8 * copy, "six that wait, the running one and the valley"
    assert disk["bma"] - disk["none"] == 3 * copy, "one in each kept checkpoint: the newest two and the best"
    assert disk["none"] == 3 * 4 * copy + copy, "weights, values and two moments in each, and the model"
    assert memory["bma"] == 5 * copy + 2 * (memory["bma"] - memory["half"]), "the rest is activations"
    for smaller in ("last", "lora", "query_key", "checkpointing", "half"):
        assert memory[smaller] < memory["bma"], smaller
    assert max(disk["lora"], disk["query_key"]) < disk["bma"]
    assert disk["checkpointing"] == disk["half"] == disk["bma"]


def test_what_the_tower_does_not_have_is_refused_at_the_post(service, http, file_id):
    for fields, param in (
        ({"trainable": "last_k_blocks", "trainable_blocks": 7}, "trainable_blocks"),
        ({"dv_start_block": 6}, "dv_start_block"),
    ):
        for path in ("/v1/fine_tuning/estimate", "/v1/fine_tuning/jobs"):
            body = {"model": "tiny", "training_file": file_id, "num_steps": 2, **fields}
            answer = http.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_body_that_makes_no_job_makes_no_estimate(service, file_id):
    answer = estimate(service, file_id, unseen_classes=["unicorn"])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "unseen_classes")
    assert estimate(service, "file-none").json()["error"]["param"] == "training_file"


def test_memory_counts_the_towers_that_baselines_have_beside_them(service, file_id):
    peaks = {
        algorithm: estimate(service, file_id, batch_size=8, algorithm=algorithm).json()["peak_gpu_bytes"]
        for algorithm in ("finetune", "miro", "coop", "cocoop")
    }
    assert peaks["finetune"] < peaks["miro"]
    assert peaks["coop"] < peaks["cocoop"]
    assert peaks["coop"] > 4 * 49408 * 16  # the text tower's words alone
