"""A process accepts so many executions at once. Requests beyond that wait a moment, and no project takes all places."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.accept_limits import AcceptLimits
from qinling_falcon.settings import Settings
from tests.pool.side import wait_until

SMALL = Settings(web_connections=16)  # twelve places, and three may wait
NO_WAIT, LONG = 0.001, 60.0
LITTLE_MEMORY = Settings(web_connections=100, max_input_size=1, async_max_input_size=1, max_held_input_size=40_000)


class Requests:
    """Requests that hold their places until they are ended."""

    def __init__(self, places: AcceptLimits):
        self.places = places
        self.served: list[str] = []
        self._ends: dict[str, list[Event]] = {}
        self._greenlets: list[gevent.Greenlet] = []

    def start(self, project: str, count: int = 1) -> list[gevent.Greenlet]:
        started = [gevent.spawn(self._hold, project) for _ in range(count)]
        gevent.sleep(0)
        self._greenlets += started
        return started

    def _hold(self, project: str) -> None:
        with self.places.place(project, 10):
            self.served.append(project)
            end = Event()
            self._ends.setdefault(project, []).append(end)
            end.wait()

    def end(self, project: str) -> None:
        """End one request of a project that holds a place."""
        self._ends[project].pop().set()
        gevent.sleep(0)

    def end_all(self) -> None:
        gevent.killall(self._greenlets)


@pytest.fixture
def requests() -> Iterator[Requests]:
    requests = Requests(AcceptLimits(SMALL, LONG))
    yield requests
    requests.end_all()
    places = requests.places
    assert (places.held, places.waiting, places.input_size) == (0, 0, 0)
    assert (places._projects, places._waiting_projects) == ({}, {})


def test_one_project_leaves_places_to_others() -> None:
    places = AcceptLimits(SMALL, NO_WAIT)
    with contextlib.ExitStack() as held:
        for project, most in (("a", 6), ("b", 3), ("c", 2), ("d", 1), ("e", 0)):
            for _ in range(most):
                held.enter_context(places.place(project, 10))
            with pytest.raises(Unavailable, match="WEB_CONNECTIONS"):
                held.enter_context(places.place(project, 10))
    assert (places.held, places.waiting, places._projects, places._waiting_projects) == (0, 0, {}, {})


def test_a_request_without_a_place_waits_until_one_is_free(requests: Requests) -> None:
    requests.start("a", 8)
    assert (requests.places.held, requests.places.waiting, len(requests.served)) == (6, 2, 6)
    requests.end("a")
    wait_until(lambda: len(requests.served) == 7)
    assert (requests.places.held, requests.places.waiting) == (6, 1)


def test_those_that_wait_take_no_place_from_another_project(requests: Requests) -> None:
    requests.start("a", 8)
    requests.start("b", 3)
    assert (requests.places.held, requests.places.waiting, requests.served.count("b")) == (9, 2, 3)


def test_a_free_place_goes_to_a_project_that_may_have_more(requests: Requests) -> None:
    requests.start("a", 6)
    requests.start("b", 3)
    requests.start("a", 2)
    requests.start("b")
    del requests.served[:]
    requests.end("a")
    wait_until(lambda: requests.served == ["b"])
    for _ in range(2):
        requests.end("a")
    wait_until(lambda: requests.served == ["b", "a"])


def test_a_later_request_does_not_overtake_one_that_waits(requests: Requests) -> None:
    requests.start("a", 7)
    [later] = requests.start("a")
    requests.end("a")
    wait_until(lambda: len(requests.served) == 7)
    assert (requests.places.waiting, later.dead) == (1, False)


def test_the_number_of_those_that_wait_is_limited_and_one_project_leaves_some_to_others(requests: Requests) -> None:
    requests.start("a", 8)
    requests.start("b", 4)
    assert (requests.places.held, requests.places.waiting) == (9, 3)
    for project in ("a", "b"):
        with pytest.raises(Unavailable, match="WEB_CONNECTIONS"), requests.places.place(project, 10):
            raise AssertionError


def test_a_request_that_ends_while_it_waits_is_not_counted(requests: Requests) -> None:
    requests.start("a", 6)
    [waiting] = requests.start("a")
    waiting.kill()
    assert (requests.places.held, requests.places.waiting) == (6, 0)


def test_a_request_that_ends_just_after_it_got_a_place_leaves_it(requests: Requests) -> None:
    requests.start("a", 6)
    first, _ = requests.start("a", 2)
    first.kill(block=False)
    requests._ends["a"].pop().set()  # the place is given before the kill arrives, or after it
    wait_until(lambda: len(requests.served) == 7)
    assert (requests.places.held, requests.places.waiting, first.dead) == (6, 0, True)


def test_inputs_have_memory_of_their_own_and_one_project_leaves_some_to_others() -> None:
    places = AcceptLimits(LITTLE_MEMORY, LONG)
    with contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(places.place("a", 10_000))
        with pytest.raises(Unavailable, match="MAX_HELD_INPUT_SIZE"):
            held.enter_context(places.place("a", 10_000))
        held.enter_context(places.place("a", 4096))  # small ones are not counted
        held.enter_context(places.place("b", 10_000))
    assert (places.input_size, places._projects) == (0, {})


def test_the_largest_input_is_accepted_however_small_the_bound() -> None:
    places = AcceptLimits(Settings(max_held_input_size=0, max_input_size=0, async_max_input_size=4096 * 4))
    with places.place("p", 4096 * 16):
        assert places.input_size == 4096 * 16


@pytest.mark.parametrize("error", [None, ZeroDivisionError, gevent.GreenletExit])
def test_a_request_that_has_ended_is_not_counted(error: type[BaseException] | None) -> None:
    places = AcceptLimits(SMALL)
    with contextlib.suppress(ZeroDivisionError, gevent.GreenletExit), places.place("p", 5000):
        assert (places.held, places.input_size) == (1, 5000)
        if error is not None:
            raise error
    assert (places.held, places.input_size, places._projects) == (0, 0, {})
