"""The description of the API, from which others make clients."""

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
