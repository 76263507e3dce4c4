"""A request that keeps its greenlet busy lets others run."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent.hub import get_hub

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
    turns = OneAtATime()

    def work() -> None:
        with turns.turn():
            done.append("work")

    def beat() -> None:
        for _ in range(4):
            done.append("beat")
            let_others_run()

    gevent.joinall([gevent.spawn(run) for run in (beat, work, work, work)], raise_error=True)
    pieces = [at for at, what in enumerate(done) if what == "work"]
    assert all(done[at + 1] == "beat" for at in pieces[:-1]), done


def test_a_place_is_waited_for_and_freed() -> None:
    places = ConcurrencyLimit(1, 0.01, "There is no place.")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), places.place():
            with pytest.raises(Unavailable, match="no place"), places.place():
                raise AssertionError
            raise ZeroDivisionError


def test_long_work_that_fails_leaves_its_turn_to_others() -> None:
    turns = OneAtATime()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), turns.turn():
            raise ZeroDivisionError
