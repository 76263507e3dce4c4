"""Trusts' tokens: asked for once, replaced in the background."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from qinling_falcon.auth import trust_tokens
from qinling_falcon.auth.service_account import ServiceAccount
from qinling_falcon.auth.trust_tokens import TrustTokens
from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.sessions import TrustGone
from tests.servers.odd_keystone import SETTINGS


class Asked(TrustTokens):
    """Tokens of trusts, whose log-ins are the test's."""

    def __init__(self) -> None:
        super().__init__(ServiceAccount(SETTINGS), SETTINGS)
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
            return trust_tokens._no_session("gone", 100.0, gone=True)
        now = time.monotonic()
        answer = {"auth_url": "u", "token": f"token-{len(self.asked)}"}
        return trust_tokens._Held(answer, now + self.fresh_s, now + 100.0, object_store="http://swift/AUTH_a")



def end(asked: TrustTokens) -> None:
    """Wait for what is asked in the background."""
    for flight in list(asked._flights._flights.values()):
        flight.wait()


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
    end(asked)
    assert asked.session("t")["token"] == "token-2"
    assert len(asked.asked) == 2


def test_an_old_token_is_better_than_none() -> None:
    asked = Asked()
    asked.fresh_s = 0.0
    asked.session("t")
    asked.error = Unavailable("away")
    asked.session("t")
    end(asked)
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
    monkeypatch.setattr(trust_tokens, "RETRY_S", 1e-9)
    asked = Asked()
    asked.error = Unavailable("away")
    asked.session("t")
    asked.error = None
    assert asked.session("t").keys() == {"error"}
    end(asked)
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
    monkeypatch.setattr(trust_tokens, "_MOST_HELD", 2)
    asked = Asked()
    for name in "abcab":
        asked.session(name)
    assert list("abcab") == asked.asked
    assert len(asked._held) == 2
