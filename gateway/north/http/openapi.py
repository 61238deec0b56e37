"""The OpenAPI document: FastAPI's own, with this API's problems, scheme and required key."""

from collections.abc import Mapping
from typing import Final, cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway import __version__
from gateway.north.http.problems import MEDIA_TYPE, Problem

TITLE: Final = "prepaid-gateway"
SUMMARY: Final = "Prepaid electricity of one site: meters, accounts, tariffs, supply."
SCHEMA_REF: Final = "#/components/schemas/"
SCHEME: Final = "bearer"
KEY_HEADER: Final = "idempotency-key"

JsonObject = dict[str, object]


def document_of(app: FastAPI) -> JsonObject:
    """The document, made once and kept."""
    if app.openapi_schema is None:
        document = get_openapi(title=TITLE, version=__version__, summary=SUMMARY, routes=app.routes)
        _finish(document)
        app.openapi_schema = document
    return cast("JsonObject", app.openapi_schema)


def _finish(document: JsonObject) -> None:
    components = _object(document.setdefault("components", {}))
    schemas = _object(components.setdefault("schemas", {}))
    # FastAPI documents its own shape of validation errors, which this API never sends.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = Problem.model_json_schema(ref_template=SCHEMA_REF + "{model}")
    schemas.update(_object(problem.pop("$defs", {})))
    schemas["Problem"] = problem
    components["securitySchemes"] = {SCHEME: {"type": "http", "scheme": "bearer"}}
    for path in _object(document["paths"]).values():
        for operation in _object(path).values():
            _finish_operation(_object(operation))


def _finish_operation(operation: JsonObject) -> None:
    responses = _object(operation.setdefault("responses", {}))
    responses.pop("422", None)
    anonymous = "x-roles" not in operation
    if not anonymous:
        operation["security"] = [{SCHEME: []}]
        content = {MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMA_REF}Problem"}}}
        responses["4XX"] = {"description": "The request is refused", "content": content}
        responses["503"] = {"description": "Away or too busy: try again", "content": content}
    by_wish = False
    for parameter in cast("list[JsonObject]", operation.get("parameters", [])):
        if str(parameter.get("name", "")).lower() == KEY_HEADER:
            by_wish = True
            parameter["required"] = True
            parameter["schema"] = {
                "type": "string",
                "minLength": 1,
                "maxLength": 128,
                "pattern": r"^[\x21-\x7e]{1,128}$",
            }
    if by_wish:
        answer = _object(responses["201" if "201" in responses else "202"])
        responses.setdefault("202", {**answer, "description": "Kept, not executed yet"})
        responses.setdefault("200", {**answer, "description": "The stored answer of a repeat"})


def _object(value: object) -> JsonObject:
    if not isinstance(value, Mapping):
        raise TypeError(f"the OpenAPI document holds {type(value).__name__} for an object")
    return cast("JsonObject", value)
