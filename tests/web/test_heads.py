"""A remembered head is the same as a parsed one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser
from hypothesis import given
from hypothesis import strategies as st

from qinling_falcon.web import heads
from qinling_falcon.web.heads import HeadParser

CALL = b"POST /v1/executions?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b"
REQUESTS = [
    CALL % (4, b"", b"body"),
    CALL % (4, b"", b"more"),
    CALL % (0, b"", b""),
    CALL % (2, b"Expect: 100-continue\r\n", b"{}"),
    CALL % (2, b"X-Forwarded-Proto: https\r\n", b"{}"),
    CALL % (2, b"Connection: close\r\n", b"{}"),
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: x\r\n\r\n",
    b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: t\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    b"get / HTTP/1.1\r\n\r\n",
    b"GET /\n HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nBad header\r\n\r\n",
]


# The attributes that only our requests have.
OURS = {"head_environ", "_body_length", "_key"}


def parsed(parser: type[RequestParser], pieces: list[bytes], address: Any, ours: set[str] = OURS) -> list[Any]:
    """The requests that a parser finds in what it receives, and the error that ends them.

    Args:
        ours: the attributes that are left out.
    """
    configuration = Config()
    configuration.set("forwarded_allow_ips", "10.0.0.1")
    found: list[Any] = []
    try:
        for request in parser(configuration, iter(pieces), address):
            names = vars(request).keys() - {"cfg", "unreader", "body"} - ours
            attributes = {name: vars(request)[name] for name in names}
            found.append((attributes, request.body.read(), request.should_close(), request.trailers))
    except Exception as error:
        found.append((type(error), str(error)))
    return found


@given(
    st.lists(st.sampled_from(REQUESTS), max_size=6),
    st.lists(st.integers(1, 300), max_size=4),
    st.sampled_from([("10.0.0.1", 1), ("10.0.0.2", 2), ""]),
)
def test_requests_are_the_same_as_from_gunicorns_parser(requests: list[bytes], cuts: list[int], address: Any) -> None:
    """However they are cut into packets, and whichever heads have been seen before."""
    data = b"".join(requests)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    assert parsed(HeadParser, pieces, address) == parsed(RequestParser, pieces, address)


def test_a_head_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    request = CALL % (4, b"X-Only: here\r\n", b"body")
    first = parsed(HeadParser, [request], "", {"_key"})
    monkeypatch.setattr(heads.Request, "parse", None)
    monkeypatch.setattr(heads.Request, "set_body_reader", None)
    assert parsed(HeadParser, [request], "", {"_key"}) == first


def test_a_large_head_is_not_remembered() -> None:
    before = len(heads._known)
    parsed(HeadParser, [CALL % (0, b"X-Large: " + 3000 * b"x" + b"\r\n", b"")], "")
    assert len(heads._known) == before


@pytest.mark.parametrize("header", ["X-Auth-Token", "authorization", "Cookie"])
def test_heads_with_tokens_are_not_remembered(header: str) -> None:
    before = len(heads._known)
    parsed(HeadParser, [CALL % (0, header.encode() + b": a-token\r\n", b"")], "")
    assert len(heads._known) == before
