"""Loading, pinning and unloading over HTTP."""

import time


def test_model_is_loaded_pinned_and_unloaded(start_service, picture):
    service = start_service(model_cache_bytes=1)
    loaded = service.http.post("/v1/models/tiny/load", json={"pin": True}).json()
    assert {name: loaded[name] for name in ("id", "runtime", "precision", "pinned")} == {
        "id": "tiny",
        "runtime": "torch",
        "precision": "fp32",
        "pinned": True,
    }
    assert not service.http.post("/v1/models/starter/load").json()["pinned"]
    assert names(service) == ["tiny", "starter"]  # though one alone is over the bound
    assert service.http.post("/v1/models/tiny/unload").json()["deleted"]
    assert names(service) == ["starter"]
    form = {"files": {"image": picture}, "data": {"labels": ["cat", "dog"]}}
    assert service.http.post("/v1/models/tiny/classify", **form).status_code == 200
    assert names(service) == ["tiny"]  # and not pinned any more
    actions = [entry["action"] for entry in service.http.get("/v1/audit_log").json()["data"]]
    assert actions[:3] == ["model.unload", "model.load", "model.load"]


def test_pinned_models_of_the_settings_are_there_from_the_start(service, start_service, create_job):
    tuned = service.finish(create_job(extra_body={"num_steps": 2}).id)
    again = start_service(
        database_url=service.settings.database_location,
        artifacts_url=service.settings.artifacts_location,
        pinned_models=["nothing", "tiny", tuned],
        serving_runtime="auto",
        serving_precision="fp32",
    )
    deadline = time.monotonic() + 200
    while names(again) != ["tiny", tuned]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for loaded in again.http.get("/v1/loaded_models").json()["data"]:
        assert (loaded["runtime"] in ("openvino", "torch"), loaded["pinned"]) == (True, True)


def names(service):
    return [each["id"] for each in service.http.get("/v1/loaded_models").json()["data"]]
