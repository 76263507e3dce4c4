"""The token of a transfer reaches Swift alone, and the connection ends with the transfer."""

from __future__ import annotations

import gc
import io
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from qinling_falcon.errors import BadGateway, Unavailable
from qinling_falcon.storage.objects import Account
from qinling_falcon.storage.swift import Swift
from tests.servers.fake_swift import TOKEN, FakeSwift, answer, fake_swift
from tests.storage.swift_transfers import CONTENT, fetch, md5_of


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
