"""The description of the API, from which others make clients."""

import re

import pytest


@pytest.fixture(scope="module")
def description(service):
    return service.http.get("/openapi.json").json()


@pytest.fixture(scope="module")
def operations(description):
    return [
        (path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_operations_have_names_tags_and_words(operations):
    names = [operation["operationId"] for _, _, operation in operations]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)
    assert all(len(operation["tags"]) == 1 and operation["description"] for _, _, operation in operations)


def test_errors_are_documented_as_they_are_sent(operations):
    for path, method, operation in operations:
        assert "422" not in operation["responses"], path
        if path.startswith("/v1/"):
            assert {"400", "401", "404", "default"} <= set(operation["responses"]), (method, path)
            schema = operation["responses"]["400"]["content"]["application/json"]["schema"]
            ours = {"$ref": "#/components/schemas/ErrorAnswer"}
            assert ours in schema["anyOf"] if "classify" in path else schema == ours
            assert ("413" in operation["responses"]) == ("requestBody" in operation), (method, path)
            (security,) = operation["security"]
            assert set(security) == {"HTTPBearer"}


def test_every_answer_has_a_schema_or_a_media_type(operations):
    for path, _, operation in operations:
        content = operation["responses"]["200"]["content"]
        assert content, path
        assert content.get("application/json", {"schema": 1}).get("schema") != {}, path


def test_bodies_have_examples_and_name_our_fields(description):
    schemas = description["components"]["schemas"]
    fields = schemas["FinetuneRequest"]["properties"]
    assert {"training_file", "test_domains", "unseen_classes", "class_names", "templates", "method"} <= set(fields)
    assert "smoothing" in fields["hyperparameters"]["description"]
    assert schemas["FinetuneRequest"]["examples"]
    assert schemas["SimilarityRequest"]["examples"]
    forms = description["paths"]["/v1/models/{model}/classify"]["post"]["requestBody"]["content"]
    assert {"multipart/form-data", "application/json", "application/octet-stream"} <= set(forms)
    assert "multipart/form-data" in description["paths"]["/v1/files"]["post"]["requestBody"]["content"]


def test_ids_in_paths_have_links_from_the_answers_that_they_come_from(description, operations):
    paths = {operation["operationId"]: path for path, _, operation in operations}
    reached = set()
    for path, _, operation in operations:
        for name, link in operation["responses"]["200"].get("links", {}).items():
            assert link["operationId"] == name
            assert set(link["parameters"]) == set(re.findall(r"{(\w+)}", paths[name])), name
            reached.add(name)
            for place in link["parameters"].values():
                kind, _, where = place.partition("#" if "#" in place else ".path.")
                if kind == "$request":
                    assert f"{{{where}}}" in path, (name, place)
                else:
                    assert (kind, "/") == ("$response.body", where[0]), (name, place)
                    assert where[1:] in answer_of(description, operation)["properties"], (name, place)
    given_by_the_client = {"set_alias"}
    assert reached == {name for name, path in paths.items() if "{" in path} - given_by_the_client


def answer_of(description, operation):
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    return description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
