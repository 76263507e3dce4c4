"""The answers of operations in the API document: JSON, files, and the common format of errors."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from qinling_falcon.openapi.examples import EXAMPLES, MESSAGES
from qinling_falcon.resources.operation import Answer, Operation
from qinling_falcon.settings import Settings

JSON = "application/json"
ERROR: dict[str, Any] = {
    "type": "object",
    "description": "What all errors look like.",
    "properties": {
        "faultstring": {"type": "string", "description": "What was wrong."},
        "faultcode": {"type": "string", "enum": ["Client", "Server"], "description": "Whose fault it was."},
        "debuginfo": {"type": "null"},
        "request_id": {"type": "string", "description": "As in `X-Request-Id`; the log has it too."},
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            "description": "Messages by field, where fields are at fault.",
        },
    },
    "required": ["faultstring", "faultcode", "debuginfo", "request_id"],
    "additionalProperties": False,
}
_ABOUT = {
    400: "The request's content is wrong.",
    401: "The request has no valid credentials, or a delivery has no valid signature.",
    403: "The policy forbids it, a quota is reached, the resource is in use or belongs to another project, a web "
    "page of another site sent the request, or the webhook is disabled.",
    404: "What it names is unknown, or not the caller's.",
    405: "It has no package to download, or the webhook does not take the method.",
    408: "The client sent the body too slowly.",
    409: "The state of something forbids it now, the name is taken, or the first request with this Idempotency-Key has "
    "not ended.",
    411: "An upload without a Content-Length.",
    413: "The body, the package or the input is too large.",
    415: "The media type is not accepted here, or the body is compressed.",
    421: "The request's host is not one of this service's hosts.",
    422: "The Idempotency-Key was used for another request.",
    429: "The webhook gets deliveries faster than its rate limit allows.",
    500: "An error of the service's own.",
    501: "This installation can't do it.",
    502: "Keystone or Swift gave an invalid answer, and nothing was lost; or the function of a webhook failed.",
    503: "No free worker in time, or a neighbour of the service is away; nothing was lost. Without Retry-After, "
    "the request may have been carried out: the message says so.",
    504: "The function did not end within its timeout.",
}
_TEXT = {"schema": {"type": "string"}}
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {"description": "Names the request; the client's own, if it sent a sane one."} | _TEXT,
    "X-Content-Type-Options": {"description": "Browsers must use the media type.", "schema": {"const": "nosniff"}},
    "Location": {
        "description": "Where what was made or changed can be found.",
        "schema": {"type": "string", "format": "uri"},
    },
    "Link": {"description": 'The next page, if there is one: `<URL>; rel="next"`.'} | _TEXT,
    "Server-Timing": {"description": "Where the time went, in milliseconds: `platform`, `queue` and `run`."} | _TEXT,
    "Idempotent-Replayed": {
        "description": "An earlier request with this Idempotency-Key has made the execution.",
        "schema": {"const": "true"},
    },
    "ETag": {"description": "Names this content; of a package, its MD5 sum."} | _TEXT,
    "Cache-Control": {"description": "How long it may be kept."} | _TEXT,
    "Content-Disposition": {"description": "What the file is called."} | _TEXT,
    "Retry-After": {"description": "Seconds until it makes sense to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "Where a token can be had."} | _TEXT,
    "Allow": {"description": "The methods that there are."} | _TEXT,
}
_OF_ALL = ("X-Request-Id", "X-Content-Type-Options")
_OF_ERRORS = {401: ("WWW-Authenticate",), 405: ("Allow",)}


def error_statuses(operation: Operation, path: str, settings: Settings) -> set[int]:
    """All error statuses of an operation."""
    statuses = {400, 500, *operation.errors}
    if operation.rule is not None:
        statuses |= {403, 503}
        if settings.auth_mode == "keystone":
            statuses.add(401)
    if settings.auth_mode == "noauth":
        statuses |= {403, 421} if operation.cross_site != "always" else {421}
    if "{" in path:
        statuses.add(404)
    if operation.takes is not None:
        statuses |= {408, 413, 415}
    if operation.form:
        statuses.add(411)
    return statuses


def error_name(status: int) -> str:
    """The name of the component that describes errors with a status."""
    return HTTPStatus(status).phrase.title().replace(" ", "").replace("-", "")


def errors() -> dict[str, dict[str, Any]]:
    """All errors, by the names of their components."""
    described = {}
    for status, about in _ABOUT.items():
        example: dict[str, Any] = {
            "faultstring": MESSAGES[status],
            "faultcode": "Client" if status < 500 else "Server",
            "debuginfo": None,
            "request_id": "req-4b1f0c52-9a0e-4f0e-8a35-1d2c3b4a5968",
        }
        if status == 400:
            example["errors"] = {"colour": ["Unknown field."]}
        described[error_name(status)] = {
            "description": about,
            "headers": _headers(_OF_ERRORS.get(status, ()), ("Retry-After",) if status in (409, 429, 503) else ()),
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}, "example": example}},
        }
    return described


def success(answer: Answer, ref: dict[str, Any] | None, settings: Settings) -> dict[str, Any]:
    """The answer when all goes well; `ref` is what it shows, or each row of it."""
    described: dict[str, Any] = {
        "description": HTTPStatus(answer.status).phrase + ".",
        "headers": _headers(answer.headers, answer.some_headers),
    }
    content: dict[str, Any] = {}
    if answer.shows is not None and ref is not None:
        example = EXAMPLES[answer.shows.__name__]
        if answer.envelope:
            content[JSON] = _listed(answer, ref, example, settings)
        else:
            content[JSON] = {"schema": ref, "example": example}
    for media_type in filter(None, answer.media_type.split(", ")):
        if media_type == JSON:
            schema: dict[str, Any] = {"type": "object"}
        else:
            schema = {"type": "string"} if media_type.startswith("text/") else {"type": "string", "format": "binary"}
        content[media_type] = {"schema": schema}
    return described | {"content": content} if content else described


def _listed(answer: Answer, ref: dict[str, Any], example: Any, settings: Settings) -> dict[str, Any]:
    rows = {"type": "array", "items": ref}
    properties: dict[str, Any] = {answer.envelope: rows}
    if "Link" in answer.some_headers:
        properties["next"] = {"type": "string", "format": "uri", "description": "The next page."}
    envelope = {
        "type": "object",
        "properties": properties,
        "required": [answer.envelope],
        "additionalProperties": False,
        "description": f"For user agents that match `{settings.list_envelope_agents}`.",
    }
    if settings.list_envelope == "always":
        return {"schema": envelope, "example": {answer.envelope: [example]}}
    return {"schema": rows if settings.list_envelope == "never" else {"oneOf": [rows, envelope]}, "example": [example]}


def _headers(always: Iterable[str], at_times: Iterable[str]) -> dict[str, Any]:
    required = {name: HEADERS[name] | {"required": True} for name in (*_OF_ALL, *always)}
    return required | {name: HEADERS[name] for name in at_times}
