"""The document, put together from the routes, their operations and the schemas."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from qinling_falcon.openapi.answers import ERROR, JSON, error_name, error_statuses, errors, success
from qinling_falcon.openapi.examples import EXAMPLES, FORMS, UPLOADS
from qinling_falcon.openapi.fields import CODE_AS_TEXT, describe, or_empty, without_null
from qinling_falcon.openapi.parameters import in_headers, in_path, in_query
from qinling_falcon.resources.forms import PACKAGE
from qinling_falcon.resources.operation import Operation, operations_of
from qinling_falcon.schemas.base import RequestSchema, Shown
from qinling_falcon.settings import Settings

_ABOUT = """The Function Engine API: functions, their versions and aliases, and runs of them.

HEAD is served wherever GET is. Times are UTC. Text must not hold NUL. Unknown fields and filters are refused.
In requests, a field that is null counts as not given; numbers and booleans may come as text.
User agents that match `{agents}` are read leniently, and get lists in envelopes.
"""
_TOKEN = "token"
# A parameter in a template of Falcon, with the converter that it may have.
_CONVERTER = re.compile(r"{(\w+):\w+}")


def write(routes: Iterable[tuple[str, Any]], settings: Settings) -> bytes:
    """The document of `routes` (path and resource class), as JSON in ASCII."""
    return json.dumps(build(routes, settings)).encode("ascii")


def build(routes: Iterable[tuple[str, Any]], settings: Settings) -> dict[str, Any]:
    """The same, as an object.

    Raises:
        TypeError: a field of a schema is of a class that nobody has described.
    """
    plugin = MarshmallowPlugin(schema_name_resolver=_name_of)
    spec = APISpec(
        title="Qinling-Falcon",
        version="1.0",
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": _ABOUT.format(agents=settings.list_envelope_agents)},
        servers=_servers(settings),
    )
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_property)  # type: ignore[no-untyped-call]  # apispec has no type for it
    spec.components.schema("Error", ERROR)
    for name, response in errors().items():
        spec.components.response(name, response)
    if settings.auth_mode == "keystone":
        about = "A token of Keystone's for a project."
        scheme = {"type": "apiKey", "in": "header", "name": "X-Auth-Token", "description": about}
        spec.components.security_scheme(_TOKEN, scheme)
    for template, resource in routes:
        path = _CONVERTER.sub(r"{\1}", template)
        described = {}
        for method, operation in operations_of(resource).items():
            if method != "HEAD" and operation.is_documented:
                said = _said_of(getattr(resource, f"on_{method.lower()}"))
                described[method.lower()] = said | _operation(spec, path, method, operation, settings)
        spec.path(path, operations=described, parameters=list(in_path(path)))
    return spec.to_dict()


def _servers(settings: Settings) -> list[dict[str, str]]:
    """Where users reach the service, first."""
    here = {"url": "/", "description": "Where this document is from."}
    if settings.public_endpoint is None:
        return [here]
    return [{"url": settings.public_endpoint.rstrip("/")}, here]


def _operation(spec: APISpec, path: str, method: str, operation: Operation, settings: Settings) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *(re.findall(r"\w+", path.removeprefix("/v1/")) or ["root"])]),
        "tags": [path.split("/")[2] if path.startswith("/v1/") else "service"],
    }
    parameters = [*in_query(operation, settings), *in_headers(operation)]
    if parameters:
        described["parameters"] = parameters
    if operation.takes is not None:
        described["requestBody"] = _body(spec, operation, settings)
    if operation.any_body:
        described["requestBody"] = {"content": {JSON: {"schema": {}, "example": EXAMPLES["any body"]}}}
    shown = None if operation.answers.shows is None else _component(spec, operation.answers.shows, settings)
    answers = {str(operation.answers.status): success(operation.answers, shown, settings)}
    if operation.answers.cached:
        answers["304"] = {"description": "It is what the client has."}
    for status in sorted(error_statuses(operation, path, settings)):
        answers[str(status)] = {"$ref": f"#/components/responses/{error_name(status)}"}
    if operation.otherwise:
        answers["default"] = {"description": operation.otherwise, "content": {"*/*": {}}}
    described["responses"] = answers
    if operation.rule is None:
        described["security"] = []
    elif settings.auth_mode == "keystone":
        described["security"] = [{_TOKEN: []}]
        described["x-policy"] = operation.rule
    return described


def _body(spec: APISpec, operation: Operation, settings: Settings) -> dict[str, Any]:
    assert operation.takes is not None
    name = operation.takes.__name__
    ref = _component(spec, operation.takes, settings)
    schema = spec.components.schemas[name]
    content: dict[str, Any] = {JSON: {"schema": ref, "example": EXAMPLES[name]}}
    if operation.form:
        form = _form(schema, UPLOADS[name])
        package = {"type": "string", "format": "binary", "description": "A zip."}
        upload = form | {"properties": form["properties"] | {PACKAGE: package}}
        content["multipart/form-data"] = {
            "schema": upload,
            "example": UPLOADS[name],
            "encoding": {PACKAGE: {"contentType": "application/zip"}},
        }
        content["application/x-www-form-urlencoded"] = {"schema": form, "example": FORMS[name]}
    return {"required": bool(schema.get("required") or operation.takes.either), "content": content}


def _form(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    """The schema of a request as a form. Form fields are text and never null."""
    properties = {name: or_empty(without_null(field)) for name, field in schema["properties"].items()}
    described = {name: value for name, value in schema.items() if name != "example"}
    # With a media type of its own, Swagger UI would ask for a file.
    code = {name: value for name, value in CODE_AS_TEXT.items() if name != "contentMediaType"}
    properties["code"] = code | ({"default": '{"source": "package"}'} if "code" in schema.get("required", ()) else {})
    for name in properties.keys() & example.keys() - {"code"}:
        properties[name] = properties[name] | {"examples": [example[name]]}
    return described | {"properties": properties}


def _component(spec: APISpec, schema: type[Schema], settings: Settings) -> dict[str, Any]:
    """A reference to the component that describes a schema, which is made if it is not there yet."""
    name = _name_of(schema)
    if name not in spec.components.schemas:
        given = {"settings": settings, "base_url": ""}
        wanted: Any = {name: given[name] for name in inspect.signature(schema).parameters if name in given}
        made = schema(**wanted)
        spec.components.schema(name, schema=made)
        component = spec.components.schemas[name]
        component["description"] = (inspect.getdoc(schema) or "").partition("\n")[0]
        component["example"] = EXAMPLES[schema.__name__]
        if issubclass(schema, Shown):
            component["required"] = sorted(component["properties"])
        elif issubclass(schema, RequestSchema) and schema.either:
            component["allOf"] = [_either(names) for names in schema.either]
    return {"$ref": f"#/components/schemas/{name}"}


def _either(names: Iterable[str]) -> dict[str, Any]:
    """That one of these has to be there, and not as null."""
    given = [{"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in names]
    return {"anyOf": given, "description": f"At least one of {', '.join(names)}."}


def _name_of(schema: Any) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Shown")


def _property(self: object, field: fields.Field[Any], ret: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    assert isinstance(field.parent, Schema)
    if "default" in ret and ret["default"] is None:
        del ret["default"]  # nothing, which is no value of the field's
    return describe(field, field.parent)


def _said_of(responder: Any) -> dict[str, str]:
    """The first sentence of a docstring as summary; the rest of that paragraph too, as description."""
    text = " ".join((inspect.getdoc(responder) or "").partition("\n\n")[0].split())
    return {"summary": re.split(r"(?<=[.;:]) ", text)[0].rstrip(".;:"), "description": text}
