"""Waits of greenlets end at their deadlines."""

from __future__ import annotations

import gevent
from gevent.event import AsyncResult, Event

from qinling_falcon.deadlines import Deadlines


def test_a_wait_ends_at_its_deadline() -> None:
    deadlines: Deadlines[AsyncResult] = Deadlines(lambda wait: wait.set("ended"))
    wait = AsyncResult()
    deadlines.add(wait, 0.05)
    assert wait.get(timeout=10) == "ended"
    assert not deadlines.remove(wait)


def test_a_wait_that_was_removed_is_not_ended() -> None:
    ended: list[str] = []
    deadlines: Deadlines[str] = Deadlines(ended.append)
    deadlines.add("short", 0.01)
    deadlines.add("long", 600)
    assert deadlines.remove("short")
    deadlines.add("next", 0.01)
    while "next" not in ended:
        gevent.sleep(0.01)
    assert ended == ["next"]
    assert deadlines.remove("long")


def test_a_wait_may_be_ended_while_another_one_is() -> None:
    """What ends the first removes the second."""
    ended: list[str] = []

    def end(wait: str) -> None:
        ended.append(wait)
        deadlines.remove("second")
        over.set()

    over = Event()
    deadlines: Deadlines[str] = Deadlines(end)
    deadlines.add("first", 0.01)
    deadlines.add("second", 0.01)
    assert over.wait(timeout=10)
    gevent.sleep(0.3)
    assert ended == ["first"]


def test_deadlines_hold_after_a_time_without_waits() -> None:
    ended: list[int] = []
    deadlines: Deadlines[int] = Deadlines(ended.append)
    for number in range(3):
        deadlines.add(number, 0.01)
        while number not in ended:
            gevent.sleep(0.01)
        gevent.sleep(0.2)
    assert ended == [0, 1, 2]
