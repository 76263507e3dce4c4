"""Trusts, made and deleted at a Keystone that answers what a real one doesn't."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.service_account import ServiceAccount
from qinling_falcon.auth.trusts import Trusts
from qinling_falcon.errors import BadGateway, QinlingError, Unauthorized, Unavailable
from qinling_falcon.invocation.sessions import TrustRefused
from qinling_falcon.models.scope import Context
from tests.servers.odd_keystone import SETTINGS, OddKeystone, odd_keystone
from workers.run.client import Api, Away
from workers.run.errors import StartError

ALICE = Identity(Context("project-a", user_id="alice", roles=("member",)), "token-of-alice")


@pytest.fixture
def odd() -> Iterator[OddKeystone]:
    with odd_keystone() as keystone:
        yield keystone


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
        assert isinstance(raised.value, TrustRefused) or raised.value.status in (401, 502)
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
    with pytest.raises(Away, match=f"not a Keystone: it answered {status}"):
        Api(replace(SETTINGS, os_auth_url=odd.url)).log_in()
    assert [path for _, path, _ in odd.seen] == ["/v3/auth/tokens"]


def test_keystone_is_asked_for_no_trust_of_an_application_credential(odd: OddKeystone) -> None:
    with pytest.raises(TrustRefused):
        Trusts(replace(SETTINGS, os_auth_url=odd.url)).make(replace(ALICE, by_credential=True))
    assert odd.seen == []


def test_questions_that_are_out_are_bounded(odd: OddKeystone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qinling_falcon.auth.trusts._MOST_OUT", 0)
    with pytest.raises(Unavailable):
        Trusts(replace(SETTINGS, os_auth_url=odd.url)).make(ALICE)
    assert [path for _, path, _ in odd.seen] == ["/v3/auth/tokens"]


def test_a_start_at_a_wrong_path_says_that_there_is_no_keystone(odd: OddKeystone) -> None:
    odd.logins, odd.body = 404, b"<html>"
    with pytest.raises(StartError, match=f"^There is no Keystone at OS_AUTH_URL={odd.url}: 404$"):
        Api(replace(SETTINGS, os_auth_url=odd.url)).log_in()


def test_nothing_listens() -> None:
    with pytest.raises(Unavailable) as raised:
        Trusts(SETTINGS).make(ALICE)
    assert isinstance(raised.value, QinlingError)
    assert raised.value.retry_after_s
    assert Trusts(SETTINGS).tokens.session("t").keys() == {"error"}


@pytest.mark.parametrize("body", [b"<html>", b'{"error": {"message": "no"}}'])
def test_a_service_that_can_not_log_in_says_nothing_of_trusts(odd: OddKeystone, body: bytes) -> None:
    """Its own login is refused as well, or by something that is no Keystone."""
    odd.logins, odd.body = 401, body
    with pytest.raises(Unavailable):
        Trusts(replace(SETTINGS, os_auth_url=odd.url)).tokens.access("trust-1")


def test_the_version_may_be_left_out_of_keystones_url(odd: OddKeystone, made: Callable[[], str]) -> None:
    odd.status, odd.body = 201, b'{"trust": {"id": "abc"}}'
    unversioned = replace(SETTINGS, os_auth_url=odd.url.removesuffix("/v3") + "/")
    assert ServiceAccount(unversioned).url == odd.url == ServiceAccount(replace(SETTINGS, os_auth_url=odd.url)).url


@pytest.mark.parametrize(
    ("status", "body", "left_s"),
    [
        (403, b'{"error": {"message": "not yours"}}', 600),
        (403, b"<html>", 20),
        (401, b'{"error": {"message": "who are you"}}', 20),
        (404, b"<html>", 20),
        (500, b'{"error": {"message": "database is locked"}}', 20),
    ],
)
def test_a_trust_that_can_not_be_deleted_is_tried_again(
    odd: OddKeystone, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, left_s: float
) -> None:
    """Soon after troubles, later after a refusal; and meanwhile the others have their turn."""
    doomed, now = ["trust-1", "trust-2"], time.monotonic()
    monkeypatch.setattr("qinling_falcon.models.trusts.doomed", lambda: list(doomed))
    monkeypatch.setattr("qinling_falcon.models.trusts.deleted", doomed.remove)
    monkeypatch.setattr("qinling_falcon.auth.trusts.time.monotonic", lambda: now)
    sweeper = Trusts(replace(SETTINGS, os_auth_url=odd.url))

    def asked() -> set[str]:
        odd.seen.clear()
        sweeper.sweep()
        return {path.rpartition("/")[2] for method, path, _ in odd.seen if method == "DELETE"}

    odd.status, odd.body = status, body
    assert asked() == {"trust-1", "trust-2"}
    doomed.append("trust-3")
    now += left_s - 1
    assert asked() == {"trust-3"}
    now += 2
    odd.status, odd.body = 204, b""
    assert asked() >= {"trust-1", "trust-2"}
    assert set(doomed) <= {"trust-3"}
