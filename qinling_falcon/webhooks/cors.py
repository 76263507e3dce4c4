"""Cross-origin requests to webhooks: which pages of other sites may call a webhook and read its answers (CORS).

Credentials are never allowed: webhooks use no cookies, and a page that knows a secret can send it in a header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

ANY_ORIGIN = ANY_METHOD = "*"
_MAX_ORIGIN = 255
# How long browsers may remember the answer to a preflight.
_MAX_AGE_S = 600
_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAMES = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z, ]{1,1024}")


def check_origin(text: str) -> None:
    """Refuse text that is neither `*` nor an origin as browsers send it: `scheme://host` or `scheme://host:port`.

    Raises:
        ValueError: with a message for the user.
    """
    if text == ANY_ORIGIN:
        return
    origin = _ORIGIN.fullmatch(text) if len(text) <= _MAX_ORIGIN else None
    if origin is None:
        raise ValueError(
            "must be * or an origin as browsers send it, such as https://example.com or http://localhost:3000: in"
            " lower case, without a path and without a slash at the end."
        )
    if origin["port"] is not None:
        port = int(origin["port"])
        if port > 65535:
            raise ValueError("must have a port of at most 65535.")
        if _DEFAULT_PORTS.get(origin["scheme"]) == port:
            raise ValueError(f"must not name port {port}, because browsers leave out the default port of a scheme.")


def cors_headers(allowed: Sequence[str], origin: str | None) -> dict[str, str]:
    """The headers of every answer of a webhook with `cors`, also of errors.

    Args:
        allowed: the origins, or `*`. Empty: the webhook has no `cors`, and there are no headers.
        origin: the request's header `Origin`; None: absent.
    """
    if not allowed:
        return {}
    if ANY_ORIGIN in allowed:
        return {"Access-Control-Allow-Origin": ANY_ORIGIN, "Access-Control-Expose-Headers": "*"}
    if origin not in allowed:
        return {"Vary": "Origin"}
    assert origin is not None
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}


def preflight_headers(
    allowed: Sequence[str], origin: str | None, method: str | None, headers: str | None, methods: Sequence[str]
) -> dict[str, str]:
    """The headers of the answer to a preflight, which is an OPTIONS request with `Access-Control-Request-Method`.

    The browser sends the request only if these headers allow its origin, method and headers.

    Args:
        allowed: see `cors_headers`.
        origin: the request's header `Origin`; None: absent.
        method: the request's header `Access-Control-Request-Method`; None: absent.
        headers: the request's header `Access-Control-Request-Headers`; None: absent.
        methods: the methods of the webhook; `*` is any.
    """
    made = cors_headers(allowed, origin)
    if not made:
        return {}
    made.pop("Access-Control-Expose-Headers", None)
    if "Access-Control-Allow-Origin" in made and method and (method in methods or ANY_METHOD in methods):
        made["Access-Control-Allow-Methods"] = ", ".join(methods)
        made["Access-Control-Max-Age"] = str(_MAX_AGE_S)
        if headers is not None and _NAMES.fullmatch(headers):
            made["Access-Control-Allow-Headers"] = headers
    return {**made, "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
