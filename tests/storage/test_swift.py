"""Transfers from and to Swift: whatever answers, they end in time, in little memory, and take the token nowhere."""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import BadGateway, BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.swift import ObjectStream, Swift
from qinling_falcon.storage.swift_names import why_not
from tests.servers.fake_swift import TOKEN, FakeSwift, answer, fake_swift

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 1000
LIMIT = 10_000_000


@pytest.fixture
def server() -> Iterator[FakeSwift]:
    with fake_swift() as running:
        running.objects["c", "o"] = CONTENT
        yield running


@pytest.fixture
def account(server: FakeSwift) -> Account:
    return Account(server.url, TOKEN)


@pytest.fixture
def swift() -> Swift:
    return Swift(Settings(swift_timeout_s=5))


def fetch(swift: Swift, account: Account, name: str = "o", limit: int | None = LIMIT) -> bytes:
    with contextlib.closing(swift.open(account, "c", name, limit)) as stream:
        return rest(stream)


def rest(stream: ObjectStream) -> bytes:
    return b"".join(iter(lambda: stream.read(1_000_000), b""))


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


def md5_of(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


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
    trouble = lambda handler: answer(handler, status, b"<html>" * 1000)  # noqa: E731
    assert troubled(server, lambda: fetch(swift, account), trouble) == 3


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


def raw(*parts: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(handler: BaseHTTPRequestHandler) -> None:
        for part in parts:
            handler.wfile.write(part)
        handler.close_connection = True

    return send


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


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_takes_the_token_elsewhere(
    server: FakeSwift, swift: Swift, account: Account, status: int
) -> None:
    with fake_swift() as elsewhere:
        elsewhere.objects["c", "o"] = CONTENT
        server.misbehave = lambda handler: answer(handler, status, Location=elsewhere.address + handler.path)
        for act in (
            lambda: swift.etag(account, "c", "o"),
            lambda: fetch(swift, account),
            lambda: swift.put(account, "c", "p", io.BytesIO(b"x"), 1, md5_of(b"x")),
            lambda: swift.delete(account, "c", "o"),
            lambda: swift.make_container(account, "d"),
            lambda: list(swift.list(account, "c")),
        ):
            with pytest.raises(BadGateway):
                act()
        assert (len(server.seen), elsewhere.seen) == (6, [])


def test_no_proxy_of_the_environment_sees_the_token(
    monkeypatch: pytest.MonkeyPatch, swift: Swift, account: Account
) -> None:
    with fake_swift() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.address)
        monkeypatch.setenv("no_proxy", "")
        assert fetch(swift, account) == CONTENT
        assert proxy.seen == []


def test_the_token_is_in_no_log(
    server: FakeSwift, swift: Swift, account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fetch(swift, account)
    server.misbehave = lambda handler: answer(handler, 500)
    with pytest.raises(Unavailable):
        fetch(swift, account)
    assert "/v1/AUTH_a/c/o" in caplog.text  # that of urllib3 is there
    assert TOKEN[:6] not in caplog.text
    assert TOKEN not in repr(account)


@pytest.mark.parametrize(
    "act",
    [lambda swift, account: fetch(swift, account), lambda swift, account: swift.etag(account, "c", "o")],
    ids=["open", "etag"],
)
def test_a_connection_ends_with_its_transfer(
    server: FakeSwift, swift: Swift, account: Account, act: Callable[[Swift, Account], object]
) -> None:
    ended = threading.Event()

    def serve(handler: BaseHTTPRequestHandler) -> None:
        server.behave(handler)
        if handler.rfile.read(1) == b"":
            ended.set()

    server.misbehave = serve
    gc.disable()  # which would end it some time
    try:
        act(swift, account)
        assert ended.wait(10)
    finally:
        gc.enable()


@pytest.mark.parametrize("limit", [0, len(CONTENT) - 1])
def test_too_much_is_refused_before_it_is_read(
    server: FakeSwift, swift: Swift, account: Account, limit: int
) -> None:
    with pytest.raises(TooLarge):
        swift.open(account, "c", "o", limit)
    assert fetch(swift, account, limit=len(CONTENT)) == CONTENT


def test_bytes_count_whatever_the_header_says(server: FakeSwift, swift: Swift, account: Account) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: e\r\n\r\n")
        for _ in range(100):
            handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    server.misbehave = endless
    with contextlib.closing(swift.open(account, "c", "o", 200_000)) as stream:
        assert stream.size is None
        assert len(stream.read(1_000_000)) <= 64 * 1024
        with pytest.raises(TooLarge):
            rest(stream)


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
            handler.wfile.write = lambda data: write(data[:size] if len(data) > size else data)  # type: ignore[method-assign]
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


@pytest.fixture(scope="module")
def cooperative() -> Iterator[Callable[..., dict[str, Any]]]:
    """Does something in a process whose waits can be ended, as in the service: its error, and the memory."""
    script = """
from gevent import monkey
monkey.patch_all()
import contextlib, io, json, resource, sys, time
from qinling_falcon.errors import QinlingError
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import Swift
for line in sys.stdin:
    url, act = json.loads(line)
    swift, account, error, size = Swift(Settings(swift_timeout_s=0.5)), Account(url, "token"), None, 0
    try:
        if act == "put":
            swift.put(account, "c", "o", io.BytesIO(bytes(50_000_000)), 50_000_000, "0" * 32)
        elif act == "etag":
            swift.etag(account, "c", "o")
        elif act == "list":
            list(swift.list(account, "c"))
        else:
            with contextlib.closing(swift.open(account, "c", "o", None)) as stream:
                if act == "dawdle":
                    time.sleep(1.0)  # longer than the deadline
                while data := stream.read(1_000_000):
                    size += len(data)
    except QinlingError as caught:
        error = str(caught)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"error": error, "kib": memory, "size": size}), flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None

    def do(server: FakeSwift, act: str) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps([server.url, act]) + "\n")
        process.stdin.flush()
        return dict(json.loads(process.stdout.readline()))

    try:
        yield do
    finally:
        process.kill()
        process.communicate()


def _drip(handler: BaseHTTPRequestHandler, ending: Any) -> None:
    """Never silent for long, and never done."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: e\r\n\r\n")
    while not ending.wait(0.1):
        handler.wfile.write(b"x")


def _trickle(handler: BaseHTTPRequestHandler, ending: Any) -> None:
    """Each read ends soon, and there are many."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nETag: e\r\n\r\n")
    for _ in range(30):
        handler.wfile.write(bytes(64 * 1024))
        ending.wait(0.1)
    handler.close_connection = True


def _slow_head(handler: BaseHTTPRequestHandler, ending: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not ending.wait(0.1):
        handler.wfile.write(b"X-More: x\r\n")


def _hang(handler: BaseHTTPRequestHandler, ending: Any) -> None:
    ending.wait(30)


@pytest.mark.parametrize(
    ("how", "act"),
    [(_hang, "fetch"), (_hang, "etag"), (_hang, "put"), (_slow_head, "etag"), (_drip, "fetch"), (_trickle, "fetch")],
)
def test_a_transfer_has_one_deadline(
    server: FakeSwift, cooperative: Callable[..., dict[str, Any]], how: Callable[..., None], act: str
) -> None:
    server.misbehave = lambda handler: how(handler, server.ending)
    outcome = cooperative(server, act)
    assert outcome["error"] == "Swift takes too long; try again."  # though none of these servers ever ends
    assert len(server.seen) == 1


def test_the_time_that_the_reader_takes_is_its_own(
    server: FakeSwift, cooperative: Callable[..., dict[str, Any]]
) -> None:
    server.tokens.add("token")
    assert cooperative(server, "dawdle")["error"] is None


def test_a_large_object_is_no_large_memory(server: FakeSwift, cooperative: Callable[..., dict[str, Any]]) -> None:
    before = cooperative(server, "etag")["kib"]
    large = 100_000_000

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: e\r\n\r\n" % large)
        for _ in range(100):
            handler.wfile.write(bytes(large // 100))

    server.misbehave = send
    assert cooperative(server, "fetch")["kib"] - before < 20_000
    server.misbehave = lambda handler: answer(handler, 500, bytes(large))
    outcome = cooperative(server, "fetch")
    assert "500" in outcome["error"]
    assert outcome["kib"] - before < 20_000


@pytest.mark.parametrize("act", ["list", "fetch"])
def test_what_is_packed_is_not_unpacked(
    server: FakeSwift, cooperative: Callable[..., dict[str, Any]], act: str
) -> None:
    before = cooperative(server, "etag")["kib"]
    packed = gzip.compress(bytes(100_000_000))
    server.misbehave = lambda handler: answer(handler, 200, packed, ETag="e", **{"Content-Encoding": "gzip"})
    outcome = cooperative(server, act)
    assert outcome["kib"] - before < 20_000
    if act == "list":
        assert outcome["error"] == "What answers is no Swift that can be understood."
    else:
        assert outcome["size"] == len(packed)  # an object is what its etag is of
