"""Trusts' tokens: asked for once, replaced in the background; and answers that a real Keystone doesn't give."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gevent
import pytest

from qinling_falcon.auth import trusts
from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.trusts import Trusts
from qinling_falcon.errors import BadGateway, QinlingError, Unauthorized, Unavailable
from qinling_falcon.invocation.sessions import TrustGone, TrustRefused
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from workers.run.client import Api, Away

SETTINGS = Settings(
    auth_mode="keystone", os_auth_url="http://127.0.0.1:1/v3", os_username="qinling", os_password="secret",
    os_project_name="service", keystone_timeout_s=5.0,
)  # fmt: skip
ALICE = Identity(Context("project-a", user_id="alice", roles=("member",)), "token-of-alice")


class Asked(Trusts):
    """Trusts whose log-ins are the test's."""

    def __init__(self) -> None:
        super().__init__(SETTINGS)
        self.asked: list[str] = []
        self.fresh_s = 100.0
        self.error: Exception | None = None
        self.gone = False

    def _log_in(self, trust_id: str) -> Any:
        self.asked.append(trust_id)
        gevent.sleep(0.001)
        if self.error is not None:
            raise self.error
        if self.gone:
            return trusts._no_session("gone", 100.0, gone=True)
        now = time.monotonic()
        answer = {"auth_url": "u", "token": f"token-{len(self.asked)}"}
        return trusts._Held(answer, now + self.fresh_s, now + 100.0, object_store="http://swift/AUTH_a")


def test_simultaneous_calls_ask_once() -> None:
    asked = Asked()
    calls = [gevent.spawn(asked.session, "t") for _ in range(20)]
    gevent.joinall(calls)
    assert {call.value["token"] for call in calls} == {"token-1"}
    assert asked.session("t")["token"] == "token-1"
    assert asked.asked == ["t"]
    access = asked.access("t")
    assert (access.object_store, access.token) == ("http://swift/AUTH_a", "token-1")
    assert "token-1" not in repr(access)


def test_a_call_that_ends_leaves_the_others_their_answer() -> None:
    asked = Asked()
    first, second = gevent.spawn(asked.session, "t"), gevent.spawn(asked.session, "t")
    gevent.sleep(0)
    first.kill()
    assert second.get()["token"] == "token-1"


def test_tokens_are_replaced_while_calls_go_on_with_the_old_one() -> None:
    asked = Asked()
    asked.fresh_s = 0.0
    assert asked.session("t")["token"] == "token-1"
    asked.fresh_s = 100.0
    assert asked.session("t")["token"] == "token-1"
    assert asked.session("t")["token"] == "token-1"
    gevent.joinall(list(asked._flights.values()))
    assert asked.session("t")["token"] == "token-2"
    assert len(asked.asked) == 2


def test_an_old_token_is_better_than_none() -> None:
    asked = Asked()
    asked.fresh_s = 0.0
    asked.session("t")
    asked.error = Unavailable("away")
    asked.session("t")
    gevent.joinall(list(asked._flights.values()))
    assert asked.session("t")["token"] == "token-1"
    assert len(asked.asked) == 2


def test_nobody_asks_again_at_once_for_any_trust_while_keystone_is_away() -> None:
    asked = Asked()
    asked.error = Unavailable("away")
    assert asked.session("t").keys() == {"error"}
    asked.error = None
    assert asked.session("t").keys() == asked.session("another").keys() == {"error"}
    with pytest.raises(Unavailable):
        asked.access("t")
    assert asked.asked == ["t"]


def test_nobody_waits_for_keystone_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusts, "_RETRY_S", 1e-9)
    asked = Asked()
    asked.error = Unavailable("away")
    asked.session("t")
    asked.error = None
    assert asked.session("t").keys() == {"error"}
    gevent.joinall(list(asked._flights.values()))
    assert asked.session("t")["token"] == "token-2"


def test_a_trust_that_is_gone_is_said_to_be() -> None:
    asked = Asked()
    asked.gone = True
    assert asked.session("t") == {"error": "gone"}
    with pytest.raises(TrustGone, match="gone"):
        asked.access("t")
    asked.gone = False
    asked.forget("t")
    assert asked.session("t")["token"] == "token-2"


def test_few_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusts, "_MOST_HELD", 2)
    asked = Asked()
    for name in "abcab":
        asked.session(name)
    assert list("abcab") == asked.asked
    assert len(asked._held) == 2


class OddKeystone:
    """Lets everybody in, and answers requests for trusts as it is told.

    Attributes:
        logins: the status of whoever logs in.
        seen: method and path of each request, and its token.
    """

    def __init__(self) -> None:
        self.status, self.headers, self.body = 201, {}, b""  # type: tuple[int, dict[str, str], bytes]
        self.logins = 201
        self.seen: list[tuple[str, str, str | None]] = []
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                path = self.path.removesuffix("?nocatalog")
                odd.seen.append((self.command, path, self.headers["X-Auth-Token"]))
                if path == "/v3/auth/tokens" and odd.logins != 201:
                    self.reply(odd.logins, odd.headers, odd.body)
                elif path == "/v3/auth/tokens":
                    times = {"issued_at": "2000-01-01T00:00:00Z", "expires_at": "2999-01-01T00:00:00Z"}
                    token = {"methods": ["password"], "user": {"id": "qinling"}, **times}
                    self.reply(201, {"X-Subject-Token": "token-of-qinling"}, json.dumps({"token": token}).encode())
                else:
                    self.reply(odd.status, odd.headers, odd.body)

            def do_GET(self) -> None:
                odd.seen.append((self.command, self.path, self.headers["X-Auth-Token"]))
                self.reply(200, {}, b'{"trust": {"id": "stolen"}}')

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v3"


@pytest.fixture
def odd() -> Iterator[OddKeystone]:
    keystone = OddKeystone()
    thread = threading.Thread(target=keystone.server.serve_forever, args=(0.01,))
    thread.start()
    yield keystone
    keystone.server.shutdown()
    thread.join()
    keystone.server.server_close()


@pytest.fixture
def made(odd: OddKeystone, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    monkeypatch.setattr("qinling_falcon.models.trusts.expect", lambda trust_id: None)
    return lambda: Trusts(replace(SETTINGS, os_auth_url=odd.url)).make(ALICE)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (201, b'{"trust": {"id": "abc"}}', None),
        (201, b"", BadGateway),
        (201, b"[1]", BadGateway),
        (201, b'{"trust": {"id": 7}}', BadGateway),
        (201, b'{"trust": {"id": "../projects"}}', BadGateway),
        (200, b'{"trust": {"id": "abc"}}', BadGateway),
        (500, b"", BadGateway),
        (503, b"<html>", BadGateway),
        (401, b"", Unauthorized),
        (403, b"<html>", BadGateway),
        (403, b'{"error": {"message": "no delegation"}}', TrustRefused),
        (404, b"[]", BadGateway),
        (404, b'{"error": {"message": "Could not find role"}}', BadGateway),
    ],
)
def test_answers_to_a_new_trust(
    odd: OddKeystone, made: Callable[[], str], status: int, body: bytes, error: type[Exception] | None
) -> None:
    odd.status, odd.body = status, body
    if error is None:
        assert made() == "abc"
        assert odd.seen[-1] == ("POST", "/v3/OS-TRUST/trusts", ALICE.token)
    else:
        with pytest.raises(error) as raised:
            made()
        assert isinstance(raised.value, TrustRefused) or raised.value.status in (401, 502)  # type: ignore[attr-defined]
        assert b"no delegation" not in body or "no delegation" in str(raised.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_token_follows_a_redirect(odd: OddKeystone, made: Callable[[], str], status: int) -> None:
    odd.status, odd.headers = status, {"Location": f"{odd.url}/elsewhere"}
    with pytest.raises(BadGateway):
        made()
    assert [path for _, path, _ in odd.seen] == ["/v3/auth/tokens", "/v3/OS-TRUST/trusts"]


@pytest.mark.parametrize("status", [302, 307, 308])
def test_no_password_follows_a_redirect_when_the_service_starts(odd: OddKeystone, status: int) -> None:
    odd.logins, odd.headers = status, {"Location": f"{odd.url}/elsewhere"}
    with pytest.raises(Away, match=f"no Keystone: it answered {status}"):
        Api(replace(SETTINGS, os_auth_url=odd.url)).log_in()
    assert [path for _, path, _ in odd.seen] == ["/v3/auth/tokens"]


def test_nothing_listens() -> None:
    with pytest.raises(Unavailable) as raised:
        Trusts(SETTINGS).make(ALICE)
    assert isinstance(raised.value, QinlingError)
    assert raised.value.retry_after_s
    assert Trusts(SETTINGS).session("t").keys() == {"error"}


@pytest.mark.parametrize("body", [b"<html>", b'{"error": {"message": "no"}}'])
def test_a_service_that_can_not_log_in_says_nothing_of_trusts(odd: OddKeystone, body: bytes) -> None:
    """Its own login is refused as well, or by something that is no Keystone."""
    odd.logins, odd.body = 401, body
    with pytest.raises(Unavailable):
        Trusts(replace(SETTINGS, os_auth_url=odd.url)).access("trust-1")


def test_the_version_may_be_left_out_of_keystones_url(odd: OddKeystone, made: Callable[[], str]) -> None:
    odd.status, odd.body = 201, b'{"trust": {"id": "abc"}}'
    unversioned = replace(SETTINGS, os_auth_url=odd.url.removesuffix("/v3") + "/")
    assert Trusts(unversioned)._url == odd.url == Trusts(replace(SETTINGS, os_auth_url=odd.url))._url
