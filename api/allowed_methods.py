"""Which methods a path takes, for the Allow header of a 405: Starlette names those of the first route alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.routing import compile_path


def allowed_methods(path: str, document: Mapping[str, Any]) -> str:
    """The methods of all routes that the description of the API has for the path, as the header lists them."""
    methods: set[str] = set()
    for template, operations in document["paths"].items():
        pattern, _, _ = compile_path(template)
        if pattern.match(path):
            methods |= {method.upper() for method in operations}
    return ", ".join(sorted(methods))
