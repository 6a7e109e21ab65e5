"""OpenAPI 3.1, made from the table of endpoints and the types that they decode and encode."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from joulebook_collector.service.answers import ErrorAnswer
from joulebook_collector.service.endpoints import Endpoint, Parameter

_WORDS: Final = {
    400: "The request is wrong.",
    401: "A valid token is needed.",
    403: "The token may not do this.",
    404: "There is no such thing, or not for this token.",
    408: "The body came too slowly.",
    409: "Other rows are held under that place.",
    411: "Content-Length is needed.",
    413: "The body or the batch is too large.",
    415: "The body is packed in a way that is not known.",
    429: "Too much at once: come again after Retry-After.",
    500: "The ledger cannot answer.",
    503: "Not now.",
}


def document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The whole document."""
    types = [ErrorAnswer, *(kind for e in endpoints for kind in (e.request, *e.answers.values()) if kind is not None)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "joulebook collector", "version": version("joulebook")},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, schema: dict[int, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": endpoint.about,
        "responses": {
            **{
                str(status): _answer(_WORDS.get(status, "Done."), endpoint.media, schema[id(kind)])
                for status, kind in endpoint.answers.items()
            },
            **{
                str(status): _answer(_WORDS[status], "application/json", schema[id(ErrorAnswer)])
                for status in (*endpoint.problems, *((401, 403) if endpoint.scope else ()))
            },
        },
    }
    if endpoint.parameters:
        found["parameters"] = [_parameter(endpoint, parameter) for parameter in endpoint.parameters]
    if endpoint.scope:
        found["security"] = [{"token": []}]
        found["description"] = f"Needs a token of the scope {endpoint.scope}."
    if endpoint.request is not None:
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema[id(endpoint.request)]}},
        }
    return found


def _answer(words: str, media: str, schema: Any) -> dict[str, Any]:
    return {"description": words, "content": {media: {"schema": schema}}}


def _parameter(endpoint: Endpoint, parameter: Parameter) -> dict[str, Any]:
    in_path = f"{{{parameter.name}}}" in endpoint.path
    if parameter.kind is str:
        schema: dict[str, Any] = {"type": "string", "maxLength": parameter.most}
    else:
        schema = {"type": "integer", "minimum": parameter.least, "maximum": parameter.most}
    if parameter.default not in (None, ""):
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": "path" if in_path else "query",
        "required": in_path,
        "description": parameter.about,
        "schema": schema,
    }
