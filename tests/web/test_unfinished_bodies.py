"""The bodies that are arriving are limited by process and project, in number and bytes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.resources import unfinished
from qinling_falcon.resources.unfinished import UnfinishedBodies, UnfinishedBody
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(unfinished, "time", found)
    return found


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def arriving(
    bodies: UnfinishedBodies, held: contextlib.ExitStack, project: str = "a", size: int = 0
) -> tuple[UnfinishedBody, socket.socket]:
    """A body with `size` bytes so far whose client has stopped sending, and the client's socket."""
    ours, client = socket.socketpair()
    held.enter_context(ours)
    held.enter_context(client)
    body = held.enter_context(bodies.receiving(project, ours))
    if size:
        body.received(size)
    body.expects()
    return body, client


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return bool(client.recv(1))
    except BlockingIOError:
        return True


def test_one_project_has_half_of_the_bodies(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 8, 1000)
    for _ in range(4):
        arriving(bodies, held)
    with pytest.raises(Unavailable, match="Too many bodies"):
        arriving(bodies, held)
    arriving(bodies, held, "b")
    assert bodies.count == 5


def test_all_projects_together_are_bounded(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 8, 1000)
    for project in "aaaabbbb":
        arriving(bodies, held, project)
    with pytest.raises(Unavailable):
        arriving(bodies, held, "c")


def test_the_longest_silent_body_of_the_project_makes_room(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 8, 1000)
    _, other_client = arriving(bodies, held, "b")
    first, first_client = arriving(bodies, held)
    clock.now += 2
    rest = [arriving(bodies, held) for _ in range(3)]
    arriving(bodies, held)
    assert not is_open(first_client)
    assert is_open(other_client), "another project's body is silent for longer, and is left alone"
    assert all(is_open(client) for _, client in rest)
    with pytest.raises(Unavailable):
        first.received(1)


def test_a_body_that_gets_bytes_is_not_the_silent_one(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 4, 1000)
    first, first_client = arriving(bodies, held)
    _, second_client = arriving(bodies, held)
    clock.now += 2
    first.received(1)
    first.expects()
    arriving(bodies, held)
    assert is_open(first_client)
    assert not is_open(second_client)


def test_a_body_that_the_service_is_busy_with_is_not_silent(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 4, 1000)
    checked, checked_client = arriving(bodies, held)
    checked.received(1)  # and now its package is checked
    arriving(bodies, held)
    clock.now += 2
    arriving(bodies, held)
    assert is_open(checked_client)


def test_bytes_are_bounded_by_project(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 100, 1000)
    arriving(bodies, held, size=400)
    with pytest.raises(Unavailable), contextlib.ExitStack() as refused:
        arriving(bodies, refused, size=101)
    arriving(bodies, held, size=100)
    arriving(bodies, held, "b", size=450)
    with pytest.raises(Unavailable):
        arriving(bodies, held, "c", size=60)


def test_silent_bodies_make_room_for_bytes(clock: Clock, held: contextlib.ExitStack) -> None:
    bodies = UnfinishedBodies("bodies", 100, 1000)
    silent = [arriving(bodies, held, size=100)[1] for _ in range(5)]
    clock.now += 2
    arriving(bodies, held, size=250)
    assert [is_open(client) for client in silent] == [False, False, False, True, True]


def test_nothing_is_left_of_bodies_that_ended(clock: Clock) -> None:
    bodies = UnfinishedBodies("bodies", 4, 1000)
    with contextlib.ExitStack() as held:
        for project in "abc":
            arriving(bodies, held, project, 10)
        assert (bodies.count, bodies.size) == (3, 30)
    assert (bodies.count, bodies.size) == (0, 0)
    with contextlib.ExitStack() as held:
        arriving(bodies, held), arriving(bodies, held)
        clock.now += 2
        arriving(bodies, held)
    assert (bodies.count, bodies.size) == (0, 0)
