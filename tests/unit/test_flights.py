"""Greenlets that need the same thing share one piece of work."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.flights import Flights


class Work:
    """Counts how often it is done; it ends when it may."""

    def __init__(self, error: Exception | None = None):
        self.count = 0
        self.may_end = Event()
        self._error = error

    def __call__(self) -> int:
        self.count += 1
        self.may_end.wait(10)
        if self._error is not None:
            raise self._error
        return self.count


def shared(flights: Flights[str, int], work: Work) -> int:
    flight = flights.share("a", work)
    assert flight.wait(10)
    return flight.result()


def test_work_is_done_once_for_all_who_come_meanwhile_and_again_later() -> None:
    flights, work = Flights[str, int](), Work()
    callers = [gevent.spawn(shared, flights, work) for _ in range(3)]
    gevent.sleep(0)
    work.may_end.set()
    assert [caller.get(timeout=10) for caller in callers] == [1, 1, 1]
    assert flights.get("a") is None
    assert shared(flights, work) == 2


def test_who_waits_may_be_killed_without_harm_to_the_others() -> None:
    flights, work = Flights[str, int](), Work()
    first, second = (gevent.spawn(shared, flights, work) for _ in range(2))
    gevent.sleep(0)
    first.kill()
    work.may_end.set()
    assert (second.get(timeout=10), work.count) == (1, 1)


def test_each_caller_gets_an_error_of_its_own() -> None:
    flights, work = Flights[str, int](), Work(Unavailable("away", retry_after_s=3))
    work.may_end.set()
    flight = flights.share("a", work)
    assert flight.wait(10)
    caught = []
    for _ in range(2):
        with pytest.raises(Unavailable, match="away") as raised:
            flight.result()
        caught.append(raised.value)
    assert caught[0] is not caught[1]
    assert caught[1].retry_after_s == 3


def test_nobody_waits_longer_than_asked() -> None:
    flights, work = Flights[str, int](), Work()
    flight = flights.share("a", work)
    assert not flight.wait(0.01)
    work.may_end.set()
    assert flight.wait(10)


def test_new_work_replaces_what_is_under_way_for_those_who_come_then() -> None:
    flights, old, new = Flights[str, int](), Work(), Work()
    before = flights.share("a", old)
    after = flights.start("a", new)
    old.may_end.set()
    assert before.wait(10)
    assert flights.get("a") is after
    assert flights.share("a", old) is after
    new.may_end.set()
    assert after.wait(10)
    assert flights.get("a") is None
