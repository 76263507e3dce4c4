"""Downloads from Swift that are interrupted."""

from __future__ import annotations

import contextlib
from http.server import BaseHTTPRequestHandler

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import Swift
from tests.servers.fake_swift import FakeSwift
from tests.storage.swift_transfers import CONTENT, LIMIT, fetch, raw, rest


@pytest.mark.parametrize(
    "headers", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
def test_a_cut_that_stays_is_an_error_and_never_an_end(
    server: FakeSwift, swift: Swift, account: Account, headers: bytes
) -> None:
    server.misbehave = raw(b"HTTP/1.1 200 OK\r\nETag: e\r\n" + headers + b"\r\n\r\n5\r\nhello\r\n")
    with contextlib.closing(swift.open(account, "c", "o", LIMIT)) as stream, pytest.raises(Unavailable):
        rest(stream)
    assert len(server.seen) <= 3


def cut_after(server: FakeSwift, size: int, times: int) -> None:
    """Have the server break off after so many bytes of each answer, so many times."""

    def serve(handler: BaseHTTPRequestHandler) -> None:
        write = handler.wfile.write
        if len(server.seen) <= times:
            handler.wfile.write = lambda data: write(data[:size] if len(data) > size else data)
            handler.close_connection = True
        server.behave(handler)

    server.misbehave = serve


@pytest.mark.parametrize("times", [1, 2])
def test_what_was_cut_goes_on_where_it_was(server: FakeSwift, swift: Swift, account: Account, times: int) -> None:
    cut_after(server, 100_000, times)
    assert fetch(swift, account) == CONTENT
    assert len(server.seen) == times + 1


def test_it_goes_on_twice_and_no_more(server: FakeSwift, swift: Swift, account: Account) -> None:
    cut_after(server, 1000, 10)
    with contextlib.closing(swift.open(account, "c", "o", LIMIT)) as stream, pytest.raises(Unavailable):
        rest(stream)
    assert len(server.seen) == 3


def test_an_object_that_was_changed_is_not_sewn_together(server: FakeSwift, swift: Swift, account: Account) -> None:
    cut_after(server, 100_000, 1)
    with contextlib.closing(swift.open(account, "c", "o", LIMIT)) as stream:
        stream.read(1000)
        server.objects["c", "o"] = bytes(len(CONTENT))
        with pytest.raises(Unavailable, match="was changed while it was read"):
            rest(stream)


def test_another_part_than_was_asked_for_is_not_taken(server: FakeSwift, swift: Swift, account: Account) -> None:
    def whole_again(handler: BaseHTTPRequestHandler) -> None:
        del handler.headers["Range"]
        cutting(handler)

    cut_after(server, 100_000, 1)
    cutting = server.misbehave
    assert cutting is not None
    server.misbehave = whole_again
    with contextlib.closing(swift.open(account, "c", "o", LIMIT)) as stream, pytest.raises(Unavailable):
        rest(stream)
