"""Makes answers: JSON bodies, Location headers, and the common format of errors."""

from __future__ import annotations

import json
from typing import Any

import falcon
import orjson

from qinling_falcon.errors import FieldErrors
from qinling_falcon.resources.request import Request

JSON = falcon.MEDIA_JSON


def answer(resp: falcon.Response, body: Any, status: str = falcon.HTTP_200) -> None:
    """Answer with `body` as JSON."""
    resp.status = status
    resp.content_type = JSON
    resp.data = encode(body)


def created(req: Request, resp: falcon.Response, body: dict[str, Any], path: str, public_endpoint: str | None) -> None:
    """Answer 201 with the new resource, and where it can be found."""
    resp.set_header("Location", base_url(req, public_endpoint) + path)
    answer(resp, body, falcon.HTTP_201)


def accepted(
    req: Request, resp: falcon.Response, path: str, public_endpoint: str | None, body: dict[str, Any] | None = None
) -> None:
    """Answer 202 with where what was changed can be found, and for an update what it is now."""
    resp.set_header("Location", base_url(req, public_endpoint) + path)
    if body is None:
        resp.status = falcon.HTTP_202
    else:
        answer(resp, body, falcon.HTTP_202)


def answer_error(
    req: Request,
    resp: falcon.Response,
    status: int,
    message: str,
    errors: FieldErrors | None = None,
) -> None:
    """Answer with an error, in the shape that all errors have."""
    body = error_body(status, message, req.request_id)
    if errors:
        body["errors"] = errors
    answer(resp, body, falcon.code_to_http_status(status))


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The shape that all errors have."""
    return {
        "faultstring": message,
        "faultcode": "Client" if status < 500 else "Server",
        "debuginfo": None,
        "request_id": request_id,
    }


def encode(body: Any) -> bytes:
    """Encode `body` as JSON. The text is ASCII, because some clients guess the encoding of other text."""
    try:
        encoded = orjson.dumps(body)
    except TypeError:  # an integer of more than 64 bits, or a lone surrogate in a text
        pass
    else:
        if encoded.isascii():
            return encoded
    return json.dumps(body).encode("ascii")


def base_url(req: Request, public_endpoint: str | None) -> str:
    """The URL that users reach this service by, without a slash at its end."""
    return public_endpoint.rstrip("/") if public_endpoint else req.prefix
