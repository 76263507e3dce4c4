"""A small WSGI application for tests of the HTTP server."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import gevent

from qinling_falcon.errors import RequestTimeout

counts = itertools.count(1)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """`/read` answers with the body's length, `/ignore` leaves the body alone, `/sleep/S` takes S seconds.

    `/large` answers with 15 KB. `/count` answers how many requests for it there have been.
    """
    path = environ["PATH_INFO"]
    status, answer = "200 OK", b"ok"
    if path.startswith("/sleep/"):
        gevent.sleep(float(path.rpartition("/")[2]))
    elif path.startswith("/late/"):  # busy for a while before it reads the body
        gevent.sleep(float(path.rpartition("/")[2]))
        answer = str(len(environ["wsgi.input"].read())).encode()
    elif path == "/read":
        try:
            answer = str(len(environ["wsgi.input"].read())).encode()
        except RequestTimeout as error:
            status, answer = "408 Request Timeout", error.message.encode()
    elif path == "/count":
        answer = str(next(counts)).encode()
    elif path == "/large":
        answer = b"x" * 15_000
    start_response(status, [("Content-Length", str(len(answer))), ("Content-Type", "text/plain")])
    return [answer]
