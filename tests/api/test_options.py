"""What a job may choose, as the API tells it."""

from alignclip_core.config import ALGORITHMS, HYPERPARAMETERS, PRESETS


def test_every_algorithm_preset_and_hyperparameter_is_told_with_what_it_changes(http):
    options = http.get("/v1/fine_tuning/options").json()
    assert list(options["hyperparameters"]) == list(HYPERPARAMETERS)
    assert options["hyperparameters"]["smoothing"] == 0.1
    assert options["algorithms"].keys() == ALGORITHMS.keys()
    assert options["algorithms"]["clipood"] == dict(ALGORITHMS["clipood"])
    assert options["presets"]["authors_code"] == dict(PRESETS["authors_code"])


def test_what_is_told_can_be_asked_for(http, file_id):
    options = http.get("/v1/fine_tuning/options").json()
    for name in options["algorithms"].keys() & {"alignclip", "finetune"}:
        body = {"model": "tiny", "training_file": file_id, "algorithm": name, "preset": "paper", "num_steps": 4}
        assert http.post("/v1/fine_tuning/estimate", json=body).is_success
