"""Request bodies, bounded before they are read, and the inputs in them."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import falcon

from qinling_falcon.errors import BadRequest, TooLarge, UnsupportedMediaType
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.strict_json import parse_json
from qinling_falcon.settings import Settings

_JSON = re.compile(r"application/(?:json|[\w.!#$&^+-]+\+json)(?:\s*;.*)?", re.IGNORECASE)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]+)', re.IGNORECASE)
# Headers that say how a body is encoded, and the values that leave the body unchanged.
_ENCODINGS = (
    ("Content-Encoding", "HTTP_CONTENT_ENCODING", ("", "identity")),
    ("Transfer-Encoding", "HTTP_TRANSFER_ENCODING", ("", "identity", "chunked")),
)


def read_object(req: Request, settings: Settings, *, wanted: str = falcon.MEDIA_JSON) -> dict[str, Any]:
    """Read the body, which must be a JSON object. An empty body counts as an empty object.

    Args:
        req: the request.
        settings: the limits.
        wanted: the accepted media types, for the message about another type.

    Raises:
        TooLarge: the body is larger than `MAX_BODY_SIZE`.
        UnsupportedMediaType: the body is compressed, or its Content-Type is not JSON in UTF-8.
        BadRequest: the body is not JSON, not an object, or contains a value that no field may have.
    """
    body = read_body(req, settings.max_body_size)
    if not body:
        return {}
    require_json(req, wanted)
    value = parse_json(body, settings.max_json_depth)
    if not isinstance(value, dict):
        raise BadRequest("The request body must be a JSON object.")
    return value


def read_body(req: Request, limit: int) -> bytes:
    """Read the whole body.

    Raises:
        TooLarge: the body has more than `limit` bytes.
        UnsupportedMediaType: the body is compressed.
        BadRequest: the client stopped in the middle, or sent broken chunks.
        RequestTimeout: the client has sent it too slowly.
        Unavailable: too many bodies are arriving at the same time.
    """
    length = req.content_length
    if length is not None and length > limit:
        _too_large(limit)
    if length is not None and req.has_whole_body:
        body: bytes = req.stream.read(length)
    else:
        with req.receiving(req.arriving.bodies):
            body = req.bounded_stream.read(limit + 1 if length is None else length)
    if len(body) > limit:
        _too_large(limit)
    if length is not None and len(body) < length:
        raise BadRequest("The request body is shorter than its Content-Length.")
    if body:
        check_encoding(req)
    return body


def check_encoding(req: Request) -> None:
    """Refuse a compressed body, because unpacking it could take any amount of memory.

    Raises:
        UnsupportedMediaType: a header says that the body is compressed or otherwise encoded.
    """
    for header, variable, plain in _ENCODINGS:
        encoding = req.env.get(variable)
        if encoding and any(coding.strip().lower() not in plain for coding in encoding.split(",")):
            raise UnsupportedMediaType(
                f"The request body is compressed ({header}: {encoding[:80]}). Send it uncompressed."
            )


def require_json(req: Request, wanted: str = falcon.MEDIA_JSON) -> None:
    """Check that the Content-Type is `application/json` or `application/*+json`, in UTF-8.

    Raises:
        UnsupportedMediaType: the type is missing or another one; the message names `wanted` as the accepted types.
    """
    content_type = req.content_type
    if content_type == falcon.MEDIA_JSON:
        return
    if content_type is None or not _JSON.fullmatch(content_type):
        given = (content_type or "").partition(";")[0].strip()[:80] or "absent"
        raise UnsupportedMediaType(f"Content-Type must be {wanted}, not {given}.")
    charset = _CHARSET.search(content_type)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"JSON must be in UTF-8, not {charset[1]}.")


def check_input(text: str | None, field: str, limit: int) -> None:
    """Refuse what is too large for a function's input.

    Args:
        text: the input.
        field: the request's field that it came in.
        limit: in bytes.

    Raises:
        TooLarge: above `limit`.
    """
    # A character has at most four bytes, so most inputs need not be encoded to be measured.
    if text is not None and len(text) * 4 > limit and len(text.encode()) > limit:
        raise TooLarge(f"{field} is larger than {limit} bytes.", errors={field: ["Too large."]})


def _too_large(limit: int) -> NoReturn:
    raise TooLarge(f"The request body is larger than {limit} bytes.")
