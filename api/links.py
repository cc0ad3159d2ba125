"""Where the ids in paths come from, as OpenAPI's links: whoever creates something is shown what to do with it next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI

ID_SOURCES: Mapping[str, tuple[str, str]] = {
    "job_id": ("create_job", "$response.body#/id"),
    "checkpoint_id": ("list_job_checkpoints", "$response.body#/first_id"),
    "evaluation_id": ("create_evaluation", "$response.body#/id"),
    "classification_id": ("create_classification", "$response.body#/id"),
    "file_id": ("create_file", "$response.body#/id"),
    "upload_id": ("create_upload", "$response.body#/id"),
    "dataset_id": ("report_on_dataset", "$response.body#/id"),
    "webhook_id": ("create_webhook", "$response.body#/id"),
    "key_id": ("create_api_key", "$response.body#/id"),
    "name": ("set_alias", "$response.body#/id"),
    "model": ("list_models", "$response.body#/first_id"),
}
"""Parameter of a path -> the operation whose answer has its value, and the place there."""


def describe_links(app: FastAPI) -> None:
    """Let the description of the API have the links of every operation that `ID_SOURCES` names."""
    describe = app.openapi

    def describe_with_links() -> dict[str, Any]:
        description = describe()
        add_links(description)
        return description

    app.openapi = describe_with_links  # type: ignore[method-assign]


def add_links(description: Mapping[str, Any]) -> None:
    """Give each source a link to every operation whose path has the id; a second time changes nothing."""
    sources = {operation["operationId"]: (path, operation) for path, operation in _operations(description)}
    for path, operation in _operations(description):
        names = _parameters(path)
        if not names or names[-1] not in ID_SOURCES:
            continue
        source_id, place = ID_SOURCES[names[-1]]
        source_path, source = sources[source_id]
        target = operation["operationId"]
        known = {name: f"$request.path.{name}" for name in _parameters(source_path)}
        if target != source_id and set(names[:-1]) <= set(known):
            parameters = {name: known[name] for name in names[:-1]} | {names[-1]: place}
            links = source["responses"]["200"].setdefault("links", {})
            links[target] = {"operationId": target, "parameters": parameters}


def _operations(description: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path, operation) for path, methods in description["paths"].items() for operation in methods.values())


def _parameters(path: str) -> list[str]:
    return re.findall(r"{(\w+)}", path)
