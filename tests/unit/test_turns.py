"""A request that keeps its greenlet busy lets others run."""

from __future__ import annotations

import gc
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace

import gevent
import pytest
from gevent.hub import get_hub

from qinling_falcon import turns
from qinling_falcon.errors import Unavailable
from qinling_falcon.turns import ConcurrencyLimit, OneAtATime, let_others_run


def test_bytes_that_have_arrived_are_read_after_a_few_turns() -> None:
    read: list[bytes] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watcher = get_hub().loop.io(ours.fileno(), 1)
        watcher.start(lambda: read.append(ours.recv(1)))
        theirs.send(b"x")
        for _ in range(5):
            let_others_run()
        watcher.close()
    assert read == [b"x"]


def test_others_run_between_two_pieces_of_long_work() -> None:
    done: list[str] = []
    one_at_a_time = OneAtATime()

    def work() -> None:
        with one_at_a_time.turn("user"):
            done.append("work")

    def beat() -> None:
        while done.count("work") < 3:
            done.append("beat")
            let_others_run()

    gevent.joinall([gevent.spawn(run) for run in (beat, work, work, work)], raise_error=True)
    pieces = [at for at, what in enumerate(done) if what == "work"]
    assert all(done[at + 1] == "beat" for at in pieces[:-1]), done


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.2, 0.4), (30.0, 1.0)])
def test_after_long_work_no_other_begins_for_twice_its_time(
    monkeypatch: pytest.MonkeyPatch, took_s: float, pause_s: float
) -> None:
    done: list[str] = []
    pauses: list[tuple[float, Callable[[], object]]] = []
    monkeypatch.setattr(turns, "time", SimpleNamespace(monotonic=iter([5.0, 5.0 + took_s, 50.0, 50.0]).__next__))
    monkeypatch.setattr(gevent, "spawn_later", lambda after_s, end: pauses.append((after_s, end)))
    one_at_a_time = OneAtATime()

    def work(name: str) -> None:
        with one_at_a_time.turn("user"):
            done.append(name)
        done.append(f"{name} goes on")

    working = [gevent.spawn(work, name) for name in ("first", "second")]
    for _ in range(5):
        let_others_run()
    assert done == ["first", "first goes on"]
    [(after_s, end)] = pauses
    assert after_s == pytest.approx(pause_s)
    end()
    gevent.joinall(working, raise_error=True)
    assert done == ["first", "first goes on", "second", "second goes on"]


def test_the_pause_begins_when_the_work_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[float] = []
    loop = get_hub().loop
    monkeypatch.setattr(gevent, "spawn_later", lambda _after_s, _end: started.append(loop.now()))
    with OneAtATime().turn("user"):
        begun = loop.now()
        busy_until = time.monotonic() + 0.05
        while time.monotonic() < busy_until:
            pass
    assert started[0] - begun > 0.04


def test_users_get_turns_in_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_PAUSE", 0)
    done: list[str] = []
    one_at_a_time = OneAtATime()

    def work(user: str) -> None:
        with one_at_a_time.turn(user):
            done.append(user)

    working = [gevent.spawn(work, user) for user in ("a", "a", "a", "a", "b", "c", "b")]
    gevent.joinall(working, raise_error=True)
    assert done == ["a", "a", "b", "c", "a", "b", "a"]
    with one_at_a_time.turn("a"):
        done.clear()
    assert done == []


@pytest.mark.parametrize("is_given", [False, True])
def test_work_that_is_given_up_leaves_its_turn_to_others(monkeypatch: pytest.MonkeyPatch, is_given: bool) -> None:
    ends: list[Callable[[], object]] = []
    monkeypatch.setattr(gevent, "spawn_later", lambda _after_s, end: ends.append(end))
    one_at_a_time = OneAtATime()
    done: list[str] = []

    def work(user: str) -> None:
        with one_at_a_time.turn(user):
            done.append(user)

    working = [gevent.spawn(work, user) for user in ("first", "killed", "last")]
    while not ends:
        let_others_run()
    if is_given:
        ends.pop()()  # the turn is given, and its greenlet is killed before it runs
    working[1].kill()
    while ends:
        ends.pop()()
        let_others_run()
    gevent.joinall(working, timeout=10)
    assert done == ["first", "last"]
    assert all(one.dead for one in working)


def test_no_garbage_is_collected_during_long_work() -> None:
    collections: list[str] = []
    gc.callbacks.append(watch := lambda phase, _: collections.append(phase))
    try:
        with OneAtATime().turn("user"):
            collections.clear()
            made: list[list[int]] = [[] for _ in range(100_000)]
            del made
            during = list(collections)
    finally:
        gc.callbacks.remove(watch)
    assert during == []
    assert gc.isenabled()


def test_a_place_is_waited_for_and_freed() -> None:
    places = ConcurrencyLimit(1, 0.01, "There is no place.")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), places.place():
            with pytest.raises(Unavailable, match="no place"), places.place():
                raise AssertionError
            raise ZeroDivisionError


def test_the_number_of_those_that_wait_for_a_place_is_limited() -> None:
    places = ConcurrencyLimit(1, 600, "There is no place.", most_waiting=1)

    def wait() -> None:
        with places.place():
            pass

    with places.place():
        waiting = gevent.spawn(wait)
        gevent.sleep(0)
        with pytest.raises(Unavailable, match="no place"), places.place():
            raise AssertionError
    gevent.joinall([waiting], raise_error=True)


def test_long_work_that_fails_leaves_its_turn_to_others() -> None:
    one_at_a_time = OneAtATime()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), one_at_a_time.turn("user"):
            raise ZeroDivisionError
