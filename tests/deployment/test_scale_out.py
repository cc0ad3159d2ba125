"""deploy/: files that scale the service out are what KEDA, Compose and the service itself take."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from alignclip_store.settings import Settings

ROOT = Path(__file__).parents[2]
COUNT = {"type": "integer", "minimum": 0}
NAME = {"type": "string", "minLength": 1}


def exactly(required: dict, optional: dict | None = None) -> dict:
    """The schema of an object with these properties and no others."""
    properties = required | (optional or {})
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


# The shape that KEDA's custom resources have (keda.sh/v1alpha1); closed, so that a misspelt key is found. KEDA's own
# definitions pass over unknown keys. Values of a trigger's metadata are text, also numbers. Beside this excerpt, the
# file was held against models that were made of KEDA's own definitions (cloudcoil.models.keda 2.16.1.0): it fits.
TRIGGER = exactly(
    {"type": NAME, "metadata": {"type": "object", "additionalProperties": {"type": "string"}}},
    {"name": NAME, "useCachedMetrics": {"type": "boolean"}, "metricType": NAME,
     "authenticationRef": exactly({"name": NAME}, {"kind": NAME})},
)  # fmt: skip
TARGET = exactly({"name": NAME}, {"apiVersion": NAME, "kind": NAME, "envSourceContainerName": NAME})
SPECS = {
    "ScaledObject": exactly(
        {"scaleTargetRef": TARGET, "triggers": {"type": "array", "items": TRIGGER, "minItems": 1}},
        {"pollingInterval": COUNT, "cooldownPeriod": COUNT, "initialCooldownPeriod": COUNT, "idleReplicaCount": COUNT,
         "minReplicaCount": COUNT, "maxReplicaCount": COUNT, "fallback": {}, "advanced": {}},
    ),
    "TriggerAuthentication": exactly(
        {"secretTargetRef": {"type": "array", "items": exactly({"parameter": NAME, "name": NAME, "key": NAME})}}
    ),
}  # fmt: skip


def schema_of(kind: str) -> dict:
    metadata = exactly({"name": NAME}, {"namespace": NAME, "labels": {}, "annotations": {}})
    return exactly(
        {
            "apiVersion": {"const": "keda.sh/v1alpha1"},
            "kind": {"const": kind},
            "metadata": metadata,
            "spec": SPECS[kind],
        }
    )


@pytest.fixture(scope="module")
def resources() -> dict[str, dict]:
    return {each["kind"]: each for each in yaml.safe_load_all((ROOT / "deploy" / "keda.yaml").read_text())}


@pytest.fixture(scope="module")
def replicas() -> dict:
    class Loader(yaml.SafeLoader):
        """Knows Compose's word for a value that replaces what another file says."""

    Loader.add_constructor("!reset", lambda loader, node: loader.construct_sequence(node))
    return yaml.load((ROOT / "deploy" / "replicas.compose.yml").read_text(), Loader)


def test_keda_resources_have_kedas_shape(resources):
    assert set(resources) == set(SPECS)
    for kind, resource in resources.items():
        jsonschema.validate(resource, schema_of(kind))


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("spec", "minReplicasCount"), 0),
        (("spec", "pollingInterval"), "15s"),
        (("spec", "triggers", 0, "metadata", "targetQueryValue"), 1),
        (("spec", "triggers", 0, "typ"), "postgresql"),
        (("apiVersion",), "keda.sh/v1"),
    ],
)
def test_a_slip_in_them_is_found(resources, path, wrong):
    changed = copy.deepcopy(resources["ScaledObject"])
    *way, last = path
    place = changed
    for step in way:
        place = place[step]
    place[last] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, schema_of("ScaledObject"))


def test_replicas_extend_the_compose_file(replicas):
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(replicas)
    whole = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    api, proxy = replicas["services"]["api"], replicas["services"]["proxy"]
    assert "api" in whole["services"]
    assert api["ports"] == [], "replicas on one machine cannot share a port"
    assert proxy["ports"] == ["127.0.0.1:${PORT:-8000}:8080"]
    assert set(proxy["networks"]) <= set(whole["networks"])
    names = {name.removeprefix("ALIGNCLIP_").lower() for name in api["environment"] if name.startswith("ALIGNCLIP_")}
    assert names <= set(Settings.model_fields)
    for volume in proxy["volumes"]:
        assert (ROOT / volume.split(":")[0]).is_file()


def test_the_proxy_lets_through_what_the_api_takes_and_holds_no_events_back():
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    bare = re.sub(r"#.*", "", text)
    assert bare.count("{") == bare.count("}")
    (gibibytes,) = re.findall(r"client_max_body_size (\d+)g;", bare)
    assert int(gibibytes) * 2**30 >= Settings.model_fields["max_body_bytes"].default
    stream = bare[bare.index("location ~ /stream$") :]
    assert "proxy_buffering off;" in stream
    assert "proxy_set_header X-Forwarded-For $remote_addr;" in bare
    for line in (line.strip() for line in bare.splitlines()):
        assert not line or line[-1] in "{};", f"{line!r} does not end"
