"""The header `Idempotency-Key`, and the digest of the request that it belongs to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from qinling_falcon.errors import BadRequest
from qinling_falcon.invocation.idempotency import RequestKey
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.base import RequestSchema

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
_VARIABLE = "HTTP_IDEMPOTENCY_KEY"
_PLAIN = r'[!#-~]([ -~]{0,253}[!-~])?'
# A string of RFC 8941, section 3.3.3: the form that the IETF's draft of this header uses.
_QUOTED = r'"([ !#-\[\]-~]|\\["\\]){1,255}"'
_KEY = re.compile(f"{_PLAIN}|{_QUOTED}")
_ESCAPED = re.compile(r"\\(.)")
PARAMETER: dict[str, Any] = {
    "type": "string",
    "pattern": f"^({_PLAIN}|{_QUOTED})$",
    "description": (
        "Names this request: 1 to 255 printable ASCII characters, plain or as a quoted string. The same request with"
        " the same key gets the same execution, and its function does not run again."
    ),
}
"""The header in the API document."""


def read_key(req: Request) -> str | None:
    """The idempotency key of a request; None: it has none. `"key"` and `key` are the same key.

    Raises:
        BadRequest: the header is no key.
    """
    given = req.env.get(_VARIABLE)
    if given is None:
        return None
    text = given.strip(" \t")
    if not _KEY.fullmatch(text):
        raise BadRequest(
            f"{HEADER} must be 1 to 255 printable ASCII characters. If it begins with a double quote, it must be one"
            ' quoted string, in which each " and \\ follows a \\.'
        )
    return _ESCAPED.sub(r"\1", text[1:-1]) if text[0] == '"' else text


def request_key(text: str, schema: RequestSchema, values: Mapping[str, Any]) -> RequestKey:
    """The key of a request, with the digest of what the request asks for.

    The digest does not depend on the spelling of the body. Fields with their default count as not given, so that it
    also stays the same when a later release has more fields.

    Args:
        text: the key.
        schema: the schema of the body.
        values: the fields, as `schema` has read them.
    """
    given = {name: value for name, value in values.items() if value != schema.load_fields[name].load_default}
    if "input" in given:
        given["input"] = _canonical(given["input"])
    return RequestKey(text, hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest())


def _canonical(text: str) -> str:
    """The input as JSON with sorted fields, if it is a JSON object; any other input as it is."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):  # no JSON, a very long number, or too deep
        return text
