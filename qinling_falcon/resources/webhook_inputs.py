"""Makes the input of an execution from a delivery to a webhook.

The function gets keyword arguments if the delivery has names: the members of a JSON object, the fields of a form, and
the fields of the query string. It gets one positional argument if the body is any other JSON or text. A webhook with
`pass_request` passes the request itself as the keyword argument `request`.

The functions here take plain values, so that they can be tested without requests. They stand in this layer because they
use the readers of forms and of JSON.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from qinling_falcon.errors import BadRequest
from qinling_falcon.resources.forms import is_no_file, text_of
from qinling_falcon.resources.multipart import Part, read_parts
from qinling_falcon.schemas.strict_json import check_text, parse_if_json
from qinling_falcon.webhooks.hop_by_hop import hop_by_hop

_MULTIPART = "multipart/form-data"
_FORM = "application/x-www-form-urlencoded"
_MAX_FIELDS = 1000
_BYTE_ORDER_MARK = "\ufeff"
_ADVICE = "A webhook with pass_request passes such a body to its function in base64."
# The headers by which keystonemiddleware and its clients say who calls. Functions must not take them for proof, and
# must not get tokens. Cookies are those of other services on the same host, because functions can't set any.
_IDENTITY = re.compile(
    r"x-(?:auth|service|subject|storage)-token|x-(?:service-)?(?:identity-status|roles)|x-service-catalog"
    r"|x-(?:service-)?(?:domain|project|project-domain|user|user-domain)-(?:id|name)|x-is-admin-project"
    r"|x-role|x-user|x-tenant(?:-id|-name)?|openstack-system-scope|cookie"
)


def input_of(query: str, content_type: str | None, body: bytes, max_depth: int) -> str | None:
    """The input of an execution from the query string and the body of a delivery.

    1. A form (`application/x-www-form-urlencoded` or `multipart/form-data`) gives its fields. A field that occurs
       several times is a list. A file is an object with `filename`, `content_type` and `base64`. A URL-encoded form
       that is a JSON object is taken as JSON, because curl sends JSON with the type of a form.
    2. Any other body that is JSON is taken as JSON, whatever its type. The members of an object are keyword arguments.
       Anything else is one positional argument, as its JSON text.
    3. Any other body is one positional argument, as text.

    The fields of the query string are further keyword arguments. A field of the body wins over one of the query string.
    With a positional argument the query string is ignored.

    Args:
        query: the query string, undecoded, as in WSGI.
        content_type: the value of `Content-Type`; None: absent.
        body: the body.
        max_depth: the deepest nesting of JSON.

    Returns:
        The input's text; None if there are neither fields nor a body.

    Raises:
        BadRequest: the body is not UTF-8, is JSON beyond the limits, or is a broken form; or a text in it has NUL or a
            lone surrogate.
    """
    fields = _url_encoded_fields(_decode_query(query), "query string")
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == _MULTIPART:
        return _named({**fields, **_multipart_fields(content_type or "", body)})
    text = _decode(body)
    if not text:
        return _named(fields)
    # Numbers may be rounded: the text itself is passed on.
    value = parse_if_json(text, max_depth)
    if media_type == _FORM and not isinstance(value, dict):
        return _named({**fields, **_url_encoded_fields(text, "form")})
    if isinstance(value, dict):
        return _with_fields({name: field for name, field in fields.items() if name not in value}, text, value)
    return text


def whole_request(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> str:
    """The input of an execution that gets the request as it came, as its keyword argument `request`.

    `request` has the members `method`, `path`, `query` (the decoded fields; a field that occurs several times is a
    list), `query_string`, `headers` (by lower-case name), `body` and `isBase64Encoded`. The body is text if it is UTF-8
    without NUL, else base64. Signatures are passed on. The headers of the connection, cookies, and the headers of
    Keystone are not.

    Args:
        method: the method.
        path: the path below the webhook's URL as it was sent, percent-encoded; "/" if there is none.
        query: the query string, undecoded, as in WSGI.
        headers: the values by name, in any case of letters. The values of a repeated header are joined with a comma.
        body: the body.

    Raises:
        BadRequest: the path or the query string is not UTF-8, or contains NUL or a lone surrogate.
    """
    check_text(path, "The path")
    query = _decode_query(query)
    by_name = {name.lower(): value for name, value in headers.items()}
    dropped = hop_by_hop(by_name.get("connection"))
    text = _as_text(body)
    request = {
        "method": method,
        "path": path,
        "query": _url_encoded_fields(query, "query string"),
        "query_string": query,
        "headers": {
            name: value for name, value in by_name.items() if name not in dropped and not _IDENTITY.fullmatch(name)
        },
        "body": _base64(body) if text is None else text,
        "isBase64Encoded": text is None,
    }
    return json.dumps({"request": request}, ensure_ascii=False)


def _decode_query(query: str) -> str:
    try:
        return query.encode("latin-1").decode("utf-8")
    except ValueError:
        raise BadRequest("The query string is not UTF-8.") from None


def _url_encoded_fields(text: str, where: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except UnicodeDecodeError:
        raise BadRequest(f"The {where} has a field that is not UTF-8.") from None
    except ValueError:
        raise BadRequest(f"The {where} has more than {_MAX_FIELDS} fields.") from None
    for name, value in pairs:
        check_text(name, f"The name of a field of the {where}")
        check_text(value, f"Field '{name}' of the {where}", name)
    return _collected(pairs)


def _multipart_fields(content_type: str, body: bytes) -> dict[str, Any]:
    parts = read_parts(io.BytesIO(body).read, len(body), content_type)
    return _collected((part.name, _part_value(part, len(body))) for part in parts if not is_no_file(part))


def _part_value(part: Part, limit: int) -> Any:
    if part.file_name is None:
        return text_of(part, limit)
    value = {
        "filename": _header_text(part.file_name),
        "content_type": None if part.content_type is None else _header_text(part.content_type),
    }
    for text in value.values():
        check_text(text or "", f"The headers of file '{part.name}'", part.name)
    return {**value, "base64": _base64(part.stream.read())}


def _header_text(undecoded: str) -> str:
    return undecoded.encode("latin-1").decode("utf-8", "replace")


def _collected(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values by name. Several values of one name are a list."""
    lists: dict[str, list[Any]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in lists.items()}


def _named(fields: dict[str, Any]) -> str | None:
    return json.dumps(fields, ensure_ascii=False) if fields else None


def _decode(body: bytes) -> str:
    try:
        text = body.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError:
        raise BadRequest(f"The body is not text in UTF-8. {_ADVICE}") from None
    if "\0" in text:
        raise BadRequest(f"The body holds NUL, which no text here may hold. {_ADVICE}")
    return text


def _with_fields(fields: dict[str, Any], text: str, value: dict[str, Any]) -> str:
    """The text of a JSON object with further members. Its own stay as they were written."""
    if not fields:
        return text
    if not value:
        return json.dumps(fields, ensure_ascii=False)
    return f"{json.dumps(fields, ensure_ascii=False)[:-1]}, {text.lstrip()[1:]}"


def _as_text(body: bytes) -> str | None:
    """The body as text; None: it is not UTF-8, or contains NUL."""
    if b"\0" in body:
        return None
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
