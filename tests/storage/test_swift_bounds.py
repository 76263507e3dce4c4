"""Transfers are bounded in bytes, time and memory, whatever answers."""

from __future__ import annotations

import contextlib
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import TooLarge
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import Swift
from tests.servers.fake_swift import FakeSwift, answer
from tests.storage.swift_transfers import CONTENT, fetch, rest

ROOT = Path(__file__).parents[2]


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


@pytest.fixture(scope="module")
def cooperative() -> Iterator[Callable[..., dict[str, Any]]]:
    """Makes a transfer in a process with gevent's patches, as `web` has. Returns the error, the memory and the size."""
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
    """Send a byte at a time, without end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: e\r\n\r\n")
    while not ending.wait(0.1):
        handler.wfile.write(b"x")


def _trickle(handler: BaseHTTPRequestHandler, ending: Any) -> None:
    """Send many pieces, with a pause after each."""
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
