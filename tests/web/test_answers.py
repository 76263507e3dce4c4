"""The headers of answers are those that Gunicorn would send."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import Response

from qinling_falcon.web.answer import Answer

NAMES = [
    "content-type", "location", "connection", "upgrade", "content-length", "Content-Length", "date", "bad name",
    "a\r\n",
]  # fmt: skip
VALUES = [
    "text/plain", " a b\t", "\ta", "5", "-5", "\u0665", "websocket", "upgrade", "a\r\nSet-Cookie: b", "\x7f", "\xe9",
    "\u20ac", "",
]  # fmt: skip


def taken(kind: type[Response], headers: list[tuple[str, str]]) -> Any:
    """What a response makes of the headers of an application."""
    request = SimpleNamespace(method="GET", version=(1, 1), should_close=lambda: False)
    response = kind(request, None, Config())
    try:
        response.start_response("200 OK", headers)
    except Exception as error:
        return type(error), str(error)
    return response.headers, response.response_length, response.upgrade, response.chunked


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", VALUES)
def test_headers_are_taken_and_refused_as_by_gunicorn(name: str, value: str) -> None:
    """Also after another answer with a header of this name."""
    headers = [("x-before", "1"), (name, value), ("x-after", "2")]
    wanted = taken(Response, headers)
    assert taken(Answer, headers) == wanted
    taken(Answer, [(name, "5")])
    assert taken(Answer, headers) == wanted
