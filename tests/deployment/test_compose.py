"""docker-compose.yml is what Compose takes, and has the production shape."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "ALIGNCLIP_BOOTSTRAP_API_KEY", "ALIGNCLIP_KEY_PEPPER")


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    return jsonschema.Draft7Validator(schema)


def test_compose_file_is_valid(compose, validator):
    assert [error.message for error in validator.iter_errors(compose)] == []


@pytest.mark.parametrize(("right", "wrong"), [("healthcheck", "healtcheck"), ("volumes", "volume"), ("init", "inti")])
def test_misspelt_key_of_a_service_is_refused(compose, validator, right, wrong):
    misspelt = copy.deepcopy(compose)
    service = next(service for service in misspelt["services"].values() if right in service)
    service[wrong] = service.pop(right)
    with pytest.raises(jsonschema.ValidationError, match=wrong):
        validator.validate(misspelt)


def test_every_part_is_a_service_of_its_own(compose):
    assert set(compose["services"]) == {"postgres", "redis", "migrate", "api", "reaper", "worker"}


def test_processes_wait_for_the_migrated_database_and_the_broker(compose):
    for name in ("api", "reaper", "worker"):
        assert compose["services"][name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"},
            "redis": {"condition": "service_healthy"},
        }
    assert compose["services"]["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert compose["services"]["migrate"]["restart"] == "no"


def test_broker_keeps_what_it_has_and_evicts_nothing(compose):
    command = compose["services"]["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_worker_reserves_a_gpu_and_has_time_for_its_checkpoint(compose):
    worker = compose["services"]["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert len(device["device_ids"]) == 1
    assert int(worker["stop_grace_period"].removesuffix("s")) > 10  # of ALIGNCLIP_STOP_SECONDS
    assert worker["init"] is True  # orphans are reaped, and SIGTERM reaches Celery's main process alone


@pytest.mark.parametrize("secret", SECRETS)
def test_nothing_starts_without_its_secrets(secret):
    text = (ROOT / "docker-compose.yml").read_text()
    uses = text.count("${" + secret)
    assert uses > 0
    assert text.count("${" + secret + ":?") == uses


def test_example_environment_has_no_secret_filled_in():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert {f"{secret}=" for secret in SECRETS} <= set(lines)


def test_images_are_built_from_dockerfile_targets_that_exist(compose):
    for service in compose["services"].values():
        if "build" in service:
            dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
            assert f" AS {service['build']['target']}\n" in dockerfile


def test_worker_is_shut_in(compose):
    worker = compose["services"]["worker"]
    assert worker["read_only"] is True
    assert worker["cap_drop"] == ["ALL"]
    assert worker["security_opt"] == ["no-new-privileges:true"]
    assert {"pids_limit", "mem_limit", "tmpfs"} <= set(worker)
    assert compose["networks"]["inside"] == {"internal": True}
    assert worker["networks"] == ["inside"]
    assert worker["environment"]["ALIGNCLIP_BOOTSTRAP_API_KEY"] == ""
    assert worker["environment"]["ALIGNCLIP_KEY_PEPPER"] == ""


def test_only_the_api_is_reached_from_outside_and_only_it_and_the_reaper_reach_there(compose):
    services = compose["services"]
    assert {name for name, service in services.items() if "outside" in service["networks"]} == {"api", "reaper"}
    assert {name for name, service in services.items() if "ports" in service} == {"api"}
    assert services["api"]["ports"][0].startswith("127.0.0.1:")
