"""Makes the HTTP answer of a synchronous webhook from the end of its execution.

A function answers with any value, which is sent as JSON with status 200, or with an object that has `statusCode`:
`{"statusCode", "headers", "body", "isBase64Encoded"}`. All webhooks have the host of the API. So a function can't set
cookies or anything else for the whole host, and browsers treat its pages as pages of no site (`sandbox`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.webhooks.hop_by_hop import hop_by_hop

EXECUTION_ID_HEADER = "X-Execution-Id"
"""The header of the answer that has the execution's id. The caller sets it."""

_JSON, _TEXT, _BYTES = "application/json", "text/plain; charset=utf-8", "application/octet-stream"
_BODILESS = (204, 205, 304)
_MAX_HEADERS_BYTES = 16 * 1024
_SANDBOX = {"Content-Security-Policy": "sandbox"}
# The form of a result, which the worker's client and the records of failures write. The output is not parsed if it is
# sent on as it is, so that no number changes on the way.
_RESULT = re.compile(r'\{"duration": [^,]+, "output": (.*)\}', re.DOTALL)
_TIMED_OUT = "Function execution timeout"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile("[\t -~\x80-\xff]*")
_DIGITS = re.compile(r"[0-9]{1,9}")
# The headers that the platform sets itself, those that hold for the whole host, and those that a proxy in front of the
# service may obey: nginx, Apache, lighttpd and perlbal send a file or the answer of another address instead.
_OWN = frozenset(
    {
        "alt-svc", "clear-site-data", "content-security-policy", "content-security-policy-report-only", "date",
        "expect-ct", "nel", "origin-agent-cluster", "public-key-pins", "report-to", "reporting-endpoints", "server",
        "service-worker-allowed", "set-cookie", "set-cookie2", "strict-transport-security", "x-content-type-options",
        "x-lighttpd-send-file", "x-lighttpd-send-tempfile", "x-reproxy-file", "x-reproxy-url", "x-request-id",
        "x-sendfile", "x-sendfile2", EXECUTION_ID_HEADER.lower(),
    }
)  # fmt: skip
_FAILURES = {
    ExecutionStatus.FAILED: "The function failed.",
    ExecutionStatus.ERROR: "The platform could not run the function to its end.",
    ExecutionStatus.CANCELLED: "The execution was cancelled.",
}


class Response(NamedTuple):
    """An answer that the function has made.

    Attributes:
        status: the HTTP status, 200 to 599.
        headers: all headers to set, `Content-Type` among them. Names are in the function's spelling.
        body: the body; empty for a status without one.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class Failure(NamedTuple):
    """An execution without an answer of the function. The answer has the API's error shape.

    Attributes:
        status: 504 for a timeout, else 502.
        message: what happened. It has nothing of the function's exception, because senders are strangers.
    """

    status: int
    message: str


def respond(status: str, result: str | None, cors: Mapping[str, str]) -> Response | Failure:
    """The answer for the end of an execution.

    Args:
        status: the execution's status.
        result: the execution's result: JSON text with duration and output.
        cors: the headers of `cors.cors_headers`, which replace the function's own; empty: the webhook has no `cors`,
            and the function's own are passed on.

    Returns:
        The function's answer; a failure if the execution failed or the function's answer is malformed.
    """
    found = _RESULT.fullmatch(result or "")
    output = found[1] if found is not None else "null"
    if status != ExecutionStatus.SUCCESS:
        if status == ExecutionStatus.FAILED and output == json.dumps(_TIMED_OUT):
            return Failure(504, "The function did not end within its timeout.")
        return Failure(502, _FAILURES.get(ExecutionStatus(status), "The function did not run to its end."))
    try:
        return _response(output, cors)
    except _Malformed as error:
        return Failure(502, f"The function's answer is malformed: {error}")


class _Malformed(Exception):
    """The function's answer can't be sent; the message says why."""


def _response(output: str, cors: Mapping[str, str]) -> Response:
    # Most values have no such member, and need not be parsed.
    answer = _parse(output) if output[:1] == "{" and "statusCode" in output else None
    status = _int_of(answer.get("statusCode")) if isinstance(answer, dict) else None
    if answer is None or status is None:
        return Response(200, {"Content-Type": _JSON, **_platform_headers(None, cors)}, _encode(output))
    if not 200 <= status <= 599:
        raise _Malformed("statusCode must be 200 to 599.")
    body, default_type = _body_of(answer)
    if body and status in _BODILESS:
        raise _Malformed(f"an answer with status {status} can't have a body.")
    headers = _headers_of(answer.get("headers"), has_cors=bool(cors))
    names = {name.lower(): name for name in headers}
    if "content-type" not in names and status not in _BODILESS:
        headers["Content-Type"] = default_type
    vary = headers.pop(names["vary"]) if "vary" in names else None
    return Response(status, {**headers, **_platform_headers(vary, cors)}, body)


def _parse(output: str) -> Any:
    try:
        return json.loads(output)
    except (ValueError, RecursionError):  # a number with thousands of digits, or hundreds of levels
        raise _Malformed("it has statusCode, but a number in it is too long, or it is nested too deeply.") from None


def _int_of(value: object) -> int | None:
    """The value as a whole number; None: it is not a whole number."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _body_of(answer: dict[str, Any]) -> tuple[bytes, str]:
    """The body and its default type."""
    body, is_base64 = answer.get("body"), answer.get("isBase64Encoded")
    if is_base64 is not None and not isinstance(is_base64, bool):
        raise _Malformed("isBase64Encoded must be true or false.")
    if body is None:
        return b"", _TEXT
    if is_base64:
        try:
            return base64.b64decode(body, validate=True), _BYTES
        except (binascii.Error, ValueError, TypeError):
            raise _Malformed("isBase64Encoded is true, but body is not base64.") from None
    if isinstance(body, str):
        return _encode(body), _TEXT
    return _encode(json.dumps(body, ensure_ascii=False)), _JSON


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _Malformed("its body holds a lone surrogate.") from None


def _headers_of(given: object, *, has_cors: bool) -> dict[str, str]:
    """The function's headers, without those that it may not set."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _Malformed("headers must be an object.")
    texts = {name: _header_value(name, value) for name, value in given.items()}
    names = {name.lower(): name for name in texts}
    if len(names) < len(texts):
        raise _Malformed("headers has a name twice, in two spellings. Several values of a header are a list.")
    if sum(len(name) + len(text) + 4 for name, text in texts.items()) > _MAX_HEADERS_BYTES:
        raise _Malformed(f"headers has more than {_MAX_HEADERS_BYTES} bytes.")
    dropped = hop_by_hop(texts[names["connection"]] if "connection" in names else None) | _OWN
    return {
        name: texts[name]
        for lower, name in names.items()
        if lower not in dropped
        and not lower.startswith("x-accel-")
        and not (has_cors and lower.startswith("access-control-"))
    }


def _header_value(name: str, value: object) -> str:
    """The value of a header as text. Several values are joined with commas, which means the same in HTTP."""
    if not _NAME.fullmatch(name):
        raise _Malformed(f"headers has a name that is not allowed: {name[:80]!a}.")
    texts = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool) or not isinstance(item, str | int):
            raise _Malformed(f"the value of header {name[:80]} must be text, a whole number, or a list of these.")
        texts.append(str(item))
    joined = ", ".join(texts).strip(" \t")
    if not _VALUE.fullmatch(joined):
        raise _Malformed(f"the value of header {name[:80]} holds a character that no header may hold.")
    return joined


def _platform_headers(vary: str | None, cors: Mapping[str, str]) -> dict[str, str]:
    """The headers that the platform adds. `vary` is the function's own `Vary`."""
    made = {**_SANDBOX, **cors}
    if vary:
        made["Vary"] = f"{vary}, {made['Vary']}" if "Vary" in made else vary
    return made
