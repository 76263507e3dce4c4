"""Swift's objects: what is done with them, and what happens when Swift is in trouble."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from qinling_falcon.errors import BadGateway, BadRequest, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.swift import Swift
from qinling_falcon.storage.swift_names import why_not
from tests.servers.fake_swift import TOKEN, FakeSwift, answer
from tests.storage.swift_transfers import CONTENT, LIMIT, fetch, md5_of, raw, rest


def test_an_object_is_put_read_listed_and_deleted(server: FakeSwift, swift: Swift, account: Account) -> None:
    md5sum = "f1f0a5eed4ae2d0eddbd9b4ca41f7b6f"
    swift.make_container(account, "d e")
    for name in ("p", "q/ü?x=1#%2e", "r"):
        swift.put(account, "d e", name, io.BytesIO(b"tiny"), 4, md5_of(b"tiny"))
    assert [entry.name for entry in swift.list(account, "d e")] == ["p", "q/ü?x=1#%2e", "r"]
    with contextlib.closing(swift.open(account, "d e", "q/ü?x=1#%2e", 4)) as stream:
        assert (stream.size, stream.etag, rest(stream)) == (4, md5_of(b"tiny"), b"tiny")
    assert swift.etag(account, "d e", "p") == md5_of(b"tiny")
    swift.delete(account, "d e", "p")
    assert sorted(server.objects) == [("c", "o"), ("d e", "q/ü?x=1#%2e"), ("d e", "r")]
    server.misbehave = lambda handler: answer(handler, 201, b"", ETag=md5sum)
    with pytest.raises(BadGateway):
        swift.put(account, "d e", "p", io.BytesIO(b"tiny"), 4, md5_of(b"tiny"))


def test_what_is_not_there_or_not_allowed_is_told_apart(server: FakeSwift, swift: Swift, account: Account) -> None:
    with pytest.raises(ObjectMissing):
        swift.etag(account, "c", "other")
    with pytest.raises(ObjectMissing):
        list(swift.list(account, "other"))
    with pytest.raises(TokenRefused):
        swift.etag(Account(server.url, "forged"), "c", "o")
    server.misbehave = lambda handler: answer(handler, 403)
    with pytest.raises(ObjectForbidden):
        fetch(swift, account)


def troubled(server: FakeSwift, act: Callable[[], object], trouble: Callable[[BaseHTTPRequestHandler], None]) -> int:
    """How often Swift was asked until it was in vain."""
    server.misbehave = trouble
    with pytest.raises(Unavailable) as caught:
        act()
    assert caught.value.retry_after_s == 1
    return len(server.seen)


@pytest.mark.parametrize("status", [500, 503, 507, 408])
def test_troubles_that_stay_are_a_503_after_three_tries(
    server: FakeSwift, swift: Swift, account: Account, status: int
) -> None:
    def fail(handler: BaseHTTPRequestHandler) -> None:
        answer(handler, status, b"<html>" * 1000)

    assert troubled(server, lambda: fetch(swift, account), fail) == 3


@pytest.mark.parametrize("status", [429, 498])
def test_a_swift_that_wants_less_is_asked_once(
    server: FakeSwift, swift: Swift, account: Account, status: int
) -> None:
    assert troubled(server, lambda: fetch(swift, account), lambda handler: answer(handler, status)) == 1


def test_there_is_no_try_beyond_the_deadline(server: FakeSwift, account: Account) -> None:
    hasty = Swift(Settings(swift_timeout_s=0.1))
    assert troubled(server, lambda: hasty.etag(account, "c", "o"), lambda handler: answer(handler, 503)) == 1


_LARGE = bytes(range(256)) * 20_000


@pytest.mark.parametrize(
    "act",
    [
        lambda swift, account: swift.etag(account, "c", "o") == md5_of(CONTENT),
        lambda swift, account: fetch(swift, account) == CONTENT,
        lambda swift, account: swift.put(account, "c", "p", io.BytesIO(_LARGE), len(_LARGE), md5_of(_LARGE)) is None,
        lambda swift, account: swift.delete(account, "c", "o") is None,
        lambda swift, account: swift.make_container(account, "d") is None,
        lambda swift, account: [entry.name for entry in swift.list(account, "c")] == ["o"],
    ],
    ids=["etag", "open", "put", "delete", "make_container", "list"],
)
@pytest.mark.parametrize("unread", [False, True], ids=["503", "reset"])
def test_troubles_that_pass_are_not_seen(
    server: FakeSwift, swift: Swift, account: Account, act: Callable[[Swift, Account], bool], unread: bool
) -> None:
    def trouble_twice(handler: BaseHTTPRequestHandler) -> None:
        if len(server.seen) > 2:
            return server.behave(handler)
        if unread:
            handler.rfile.read(min(1000, int(handler.headers["Content-Length"] or 0)))
            handler.close_connection = True
            return None
        handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        return answer(handler, 503)

    server.misbehave = trouble_twice
    assert act(swift, account)
    assert server.seen[0] == server.seen[1] == server.seen[2]
    assert server.objects.get(("c", "p"), _LARGE) == _LARGE  # not the rest of what was being read


@pytest.mark.parametrize(
    "said",
    [
        b"HELO there\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",  # no etag
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nETag: e\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: " + b"e" * 300 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: \xff\r\n\r\n",
        b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: e\r\n\r\n",
    ],
    ids=lambda said: str(said[:60]),
)
def test_nonsense_is_a_502(server: FakeSwift, swift: Swift, account: Account, said: bytes) -> None:
    server.misbehave = raw(said)
    with pytest.raises(BadGateway):
        fetch(swift, account)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[1]", b"{}x", b'[{"name": "x"}]', b'[{"name": 1, "last_modified": 2}]', b"[" * 1_000_000],
    ids=lambda body: str(body[:40]),
)
def test_a_listing_that_is_none_is_a_502(server: FakeSwift, swift: Swift, account: Account, body: bytes) -> None:
    server.misbehave = lambda handler: answer(handler, 200, body)
    with pytest.raises(BadGateway):
        list(swift.list(account, "c"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1/AUTH_a", "http://no.such.host.invalid/v1/AUTH_a"])
def test_nobody_there_is_a_503(swift: Swift, url: str) -> None:
    with pytest.raises(Unavailable):
        swift.etag(Account(url, TOKEN), "c", "o")


@pytest.mark.parametrize("url", ["", "ftp://x/v1", "http://", "nonsense", "http://[x/v1"])
def test_an_account_that_is_no_address_is_a_502(swift: Swift, url: str) -> None:
    with pytest.raises(BadGateway):
        swift.etag(Account(url, TOKEN), "c", "o")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *[("container", name) for name in ("", ".", "..", "a/b", "../AUTH_b/c", "/", "a\0", "a\n", "x" * 257)],
        ("container", "ü" * 129),
        *[("object", name) for name in ("", ".", "..", "../o", "a/../../c/o", "a/./b", "a//b", "/a", "a/", "a\0b")],
        *[("object", name) for name in ("a\x7f", "a\x85", "a\u2028", "x" * 1025, "ü" * 513, "\ud800")],
    ],
)
def test_names_that_lead_elsewhere_are_refused(
    server: FakeSwift, swift: Swift, account: Account, kind: str, name: str
) -> None:
    assert why_not(kind, name) is not None
    place = {"container": "c", "object": "o"} | {kind: name}
    with pytest.raises(BadRequest):
        swift.open(account, place["container"], place["object"], LIMIT)
    with pytest.raises(BadRequest):
        swift.etag(account, place["container"], place["object"])
    assert server.seen == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [("container", "..."), ("container", "a b?&%2f"), ("object", "..a/b../...c"), ("object", "%2e%2e/x\\..\\y")],
)
def test_names_that_only_look_like_it_reach_their_own_place(
    server: FakeSwift, swift: Swift, account: Account, kind: str, name: str
) -> None:
    place = {"container": "c", "object": "o"} | {kind: name}
    server.objects[place["container"], place["object"]] = b"here"
    assert swift.etag(account, place["container"], place["object"]) == md5_of(b"here")
