"""The token cache: which tokens are validated, and how long results are cached. Tests move the clock."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent.event import Event

from qinling_falcon import flights
from qinling_falcon.auth import token_cache
from qinling_falcon.auth.token_cache import Known, Question, Refused, TokenCache
from qinling_falcon.errors import Forbidden, QinlingError, Unauthorized, Unavailable
from qinling_falcon.models.scope import Context
from tests.support.clock import Clock

KEEP_S = 60.0
REFUSED_S = 5.0


class Keystone:
    """Answers questions by their token, when `open` is set; notes them."""

    def __init__(self, clock: Clock):
        self.asked: list[Question] = []
        self.open = Event()
        self.open.set()
        self.left_s = 3600.0
        self.takes_s = 0.0
        self.error: Exception | None = None
        self._clock = clock

    def answer(self, question: Question) -> Known | Refused:
        self.asked.append(question)
        self.open.wait()
        self._clock.now += self.takes_s
        if self.error is not None:
            raise self.error
        restricted = question.token.startswith("restricted")
        if question.token.startswith("forged") or (restricted and question.path != "/allowed"):
            return Refused(lambda: Unauthorized("forged", challenge="K"))
        if question.token.startswith("unscoped"):
            return Refused(lambda: Forbidden("unscoped"))
        return Known(Context(f"project-of-{question.token}"), None, self.left_s, restricted)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(token_cache, "time", clock)
    monkeypatch.setattr(flights, "time", clock)
    return clock


@pytest.fixture
def keystone(clock: Clock) -> Iterator[Keystone]:
    keystone = Keystone(clock)
    yield keystone
    keystone.open.set()


@pytest.fixture
def make(keystone: Keystone) -> Callable[..., TokenCache]:
    def make(
        keep_s: float = KEEP_S, size: int = 100, wait_s: float = 3.0, most_waiting: int = 100
    ) -> TokenCache:
        return TokenCache(keystone.answer, keep_s=keep_s, size=size, wait_s=wait_s, most_waiting=most_waiting)

    return make


@pytest.fixture
def cache(make: Callable[..., TokenCache]) -> TokenCache:
    return make()


def project(cache: TokenCache, token: str = "alice", method: str = "GET", path: str = "/path") -> str:
    return cache.find(Question(token, method, path)).context.project_id


def error(cache: TokenCache, token: str = "alice", method: str = "GET", path: str = "/path") -> QinlingError:
    try:
        cache.find(Question(token, method, path))
    except QinlingError as refusal:
        return refusal
    raise AssertionError(f"{token} was let in")


def test_a_known_token_is_asked_about_once_whatever_it_is_used_for(cache: TokenCache, keystone: Keystone) -> None:
    assert {project(cache, path=path) for path in ("/a", "/b")} == {"project-of-alice"}
    assert project(cache, "bob") == "project-of-bob"
    assert [question.token for question in keystone.asked] == ["alice", "bob"]


def test_twenty_at_once_make_one_question(cache: TokenCache, keystone: Keystone) -> None:
    keystone.open.clear()
    requests = [gevent.spawn(project, cache, path=f"/{number}") for number in range(20)]
    gevent.idle()
    keystone.open.set()
    assert {request.get() for request in requests} == {"project-of-alice"}
    assert len(keystone.asked) == 1


def test_those_who_wait_are_let_in_by_one_answer_though_it_came_late(cache: TokenCache, keystone: Keystone) -> None:
    """It is their coming that is held against the question's sending: else they would ask one after another."""
    keystone.open.clear()
    keystone.takes_s = KEEP_S + 1
    requests = [gevent.spawn(project, cache) for _ in range(5)]
    gevent.idle()
    keystone.open.set()
    gevent.joinall(requests)
    assert len(keystone.asked) == 1


@pytest.mark.parametrize("token", ["forged", "unscoped"])
def test_a_refused_token_is_refused_from_memory_for_a_short_time(
    cache: TokenCache, keystone: Keystone, clock: Clock, token: str
) -> None:
    expected = {"forged": Unauthorized, "unscoped": Forbidden}[token]
    for _ in range(3):
        assert type(error(cache, token)) is expected
    clock.now += REFUSED_S - 0.1
    error(cache, token)
    assert len(keystone.asked) == 1
    clock.now += 0.1
    error(cache, token)
    assert len(keystone.asked) == 2


def test_refusals_are_as_many_as_set_and_good_tokens_are_not_forgotten_for_them(
    make: Callable[..., TokenCache], keystone: Keystone
) -> None:
    cache = make(size=3)
    project(cache)
    for number in range(50):
        error(cache, f"forged-{number}")
    keystone.asked.clear()
    project(cache)
    error(cache, "forged-49")
    error(cache, "forged-47")
    assert keystone.asked == []
    error(cache, "forged-46")
    assert len(keystone.asked) == 1


def test_the_good_token_that_was_used_longest_ago_is_forgotten_first(
    make: Callable[..., TokenCache], keystone: Keystone
) -> None:
    cache = make(size=2)
    for token in ("alice", "bob", "alice", "carol"):
        project(cache, token)
    keystone.asked.clear()
    for token in ("alice", "carol", "bob"):
        project(cache, token)
    assert [question.token for question in keystone.asked] == ["bob"]


def test_a_token_is_asked_about_again_when_its_time_is_over(
    cache: TokenCache, keystone: Keystone, clock: Clock
) -> None:
    """Counted from when the question was sent: what Keystone has done since then, nobody knows here."""
    keystone.takes_s = 2.0
    project(cache)
    clock.now += KEEP_S - 2.1
    project(cache)
    assert len(keystone.asked) == 1
    clock.now += 0.1
    project(cache)
    assert len(keystone.asked) == 2


def test_use_does_not_lengthen_the_time(cache: TokenCache, keystone: Keystone, clock: Clock) -> None:
    for _ in range(7):
        project(cache)
        clock.now += 10
    assert len(keystone.asked) == 2


@pytest.mark.parametrize("token", ["alice", "restricted"])
def test_a_token_is_not_believed_beyond_its_end(
    cache: TokenCache, keystone: Keystone, clock: Clock, token: str
) -> None:
    keystone.left_s = 10.0
    project(cache, token, path="/allowed")
    clock.now += 9.9
    project(cache, token, path="/allowed")
    assert len(keystone.asked) == 1
    clock.now += 0.1
    project(cache, token, path="/allowed")
    assert len(keystone.asked) == 2


def test_with_no_time_every_request_asks_for_itself_at_once(
    make: Callable[..., TokenCache], keystone: Keystone, clock: Clock
) -> None:
    cache = make(keep_s=0)
    keystone.open.clear()
    requests = []
    for _ in range(5):
        requests.append(gevent.spawn(project, cache))
        gevent.idle()
        clock.now += 0.001
    assert len(keystone.asked) == 5
    keystone.open.set()
    assert {request.get() for request in requests} == {"project-of-alice"}
    project(cache)
    assert len(keystone.asked) == 6


def test_who_comes_later_than_its_time_does_not_take_the_answer_that_is_under_way(
    make: Callable[..., TokenCache], keystone: Keystone, clock: Clock
) -> None:
    cache = make(keep_s=1)
    keystone.open.clear()
    first = gevent.spawn(project, cache)
    gevent.idle()
    clock.now += 1.1
    others = [gevent.spawn(project, cache) for _ in range(3)]
    gevent.idle()
    assert len(keystone.asked) == 2
    keystone.open.set()
    gevent.joinall([first, *others], raise_error=True)
    assert len(keystone.asked) == 2


@pytest.mark.parametrize("failure", [Unavailable("away", retry_after_s=7), RuntimeError("a bug")])
def test_each_who_waits_is_told_of_a_failure_which_is_not_remembered(
    cache: TokenCache, keystone: Keystone, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    keystone.error = failure
    keystone.open.clear()
    requests = [gevent.spawn(error, cache) for _ in range(5)]
    gevent.idle()
    keystone.open.set()
    errors = [request.get() for request in requests]
    assert {type(told) for told in errors} == {Unavailable}
    assert len({id(told) for told in errors}) == 5
    assert all(told.retry_after_s for told in errors)
    assert ("could not be asked" in caplog.text) == isinstance(failure, RuntimeError)
    assert len(keystone.asked) == 1
    keystone.error = None
    assert project(cache) == "project-of-alice"


def test_who_waits_gets_the_answer_though_the_request_that_asked_was_ended(
    cache: TokenCache, keystone: Keystone
) -> None:
    keystone.open.clear()
    asker = gevent.spawn(project, cache)
    gevent.idle()
    waiter = gevent.spawn(project, cache)
    gevent.idle()
    asker.kill()
    keystone.open.set()
    assert waiter.get() == "project-of-alice"
    assert len(keystone.asked) == 1


def test_a_wait_is_bounded_and_the_answer_is_kept_when_it_comes(
    make: Callable[..., TokenCache], keystone: Keystone
) -> None:
    cache = make(wait_s=0.02)
    keystone.open.clear()
    for _ in range(2):
        refusal = error(cache)
        assert type(refusal) is Unavailable
        assert refusal.retry_after_s == 1
    keystone.open.set()
    gevent.idle()
    assert project(cache) == "project-of-alice"
    assert len(keystone.asked) == 1


@pytest.mark.parametrize("first", ["/allowed", "/other"])
def test_a_restricted_token_is_known_for_its_method_and_path_alone(
    cache: TokenCache, keystone: Keystone, first: str
) -> None:
    for path in (first, "/allowed", "/other") * 2:
        if path == "/allowed":
            assert project(cache, "restricted", path=path) == "project-of-restricted"
        else:
            assert type(error(cache, "restricted", path=path)) is Unauthorized
    assert len(keystone.asked) == 2
    project(cache, "restricted", "POST", "/allowed")
    assert len(keystone.asked) == 3


def test_requests_that_wait_for_an_answer_are_bounded_and_known_tokens_are_let_in(
    make: Callable[..., TokenCache], keystone: Keystone
) -> None:
    cache = make(most_waiting=5)
    project(cache, "known")
    keystone.open.clear()
    requests = [gevent.spawn(project, cache, f"unknown-{number}") for number in range(5)]
    gevent.idle()

    refusal = error(cache, "one-more")

    assert isinstance(refusal, Unavailable) and refusal.retry_after_s == 1 and "Too many" in refusal.message
    assert project(cache, "known") == "project-of-known"
    assert len(keystone.asked) == 1 + 5
    keystone.open.set()
    assert {request.get() for request in requests} == {f"project-of-unknown-{number}" for number in range(5)}
    assert {project(cache, f"later-{number}") for number in range(9)} == {f"project-of-later-{n}" for n in range(9)}


def test_a_restricted_token_at_once_on_many_paths_is_answered_for_each(cache: TokenCache, keystone: Keystone) -> None:
    keystone.open.clear()
    good = [gevent.spawn(project, cache, "restricted", path="/allowed") for _ in range(3)]
    bad = [gevent.spawn(error, cache, "restricted", path=f"/other-{number % 2}") for number in range(6)]
    gevent.idle()
    keystone.open.set()
    assert {request.get() for request in good} == {"project-of-restricted"}
    assert {type(request.get()) for request in bad} == {Unauthorized}
    assert sorted(question.path for question in keystone.asked) == ["/allowed", "/other-0", "/other-1"]


def test_a_restricted_token_drives_out_no_other(make: Callable[..., TokenCache], keystone: Keystone) -> None:
    cache = make(size=3)
    project(cache)
    for number in range(10):
        project(cache, "restricted", f"METHOD{number}", "/allowed")
    keystone.asked.clear()
    project(cache)
    assert keystone.asked == []


def test_tokens_are_kept_by_their_hashes(cache: TokenCache) -> None:
    project(cache, "a-secret-token")
    error(cache, "forged-secret-token")
    project(cache, "restricted-secret-token", path="/allowed")
    gc.collect()
    held = [cache]
    seen: set[int] = set()
    while held:
        thing = held.pop()
        if id(thing) in seen or isinstance(thing, type) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, str | bytes):
            assert "secret-token" not in str(thing) or "project-of" in str(thing)
        else:
            held += gc.get_referents(thing)
    assert len(seen) > 20
