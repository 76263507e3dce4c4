"""The ready sets: executions that wait are taken once, from all projects in turn, and a drain with room is woken."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.pool.ready_sets import Rooms
from tests.pool.side import Side, wait_until

SECOND = 1_000_000


ROOMS = Rooms(1000, 1000, {}, {})


def push(side: Side, project: str, *ids: str, function: str = "") -> None:
    """Push executions of a function, by default of the only one of its project."""
    for execution_id in ids:
        side.pool.ready.push(project, function or f"function of {project}", execution_id)
    side.sync()


def now(side: Side) -> int:
    """The time of Redis, in microseconds."""
    seconds, micros = side.connection.call("TIME")
    return int(seconds) * SECOND + int(micros)


def take(side: Side, most: int = 10, rooms: Rooms = ROOMS) -> list[str]:
    return side.pool.ready.take(most, rooms).ids


def numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number:03}" for number in range(count)]


def test_executions_are_taken_once_oldest_first(side: Side, other: Side) -> None:
    push(side, "p", "a", "b", "c")

    assert take(side, 2) == ["a", "b"]
    assert take(other) == ["c"]
    assert take(side) == []


def test_an_execution_that_is_pushed_again_is_taken_once(side: Side) -> None:
    push(side, "p", "a", "a")
    assert take(side) == ["a"]
    assert take(side) == []


def test_projects_are_served_in_equal_shares_and_in_turn(side: Side) -> None:
    push(side, "large", *numbered("l", 100))
    push(side, "small", "s0", "s1")
    push(side, "tiny", "t0")

    taken = take(side, 9)

    assert sorted(taken) == [*numbered("l", 6), "s0", "s1", "t0"]
    push(side, "small", "s2")
    assert "s2" in take(side, 2), "the project that was not served just now has its turn"


def test_functions_of_a_project_are_served_in_equal_shares_and_in_turn(side: Side) -> None:
    push(side, "p", *numbered("l", 300), function="large")
    push(side, "p", "s0", "s1", function="small")
    push(side, "q", *numbered("q", 5))

    taken = take(side, 12)

    assert sorted(taken) == [*numbered("l", 5), *numbered("q", 5), "s0", "s1"]
    push(side, "p", "s2", function="small")
    assert sorted(take(side, 2)) == ["l005", "s2"]


def test_of_many_functions_with_much_to_do_four_are_served_at_once(side: Side) -> None:
    for letter in "abcdef":
        push(side, "p", *numbered(letter, 20), function=f"function {letter}")
    gevent.sleep(0.002)  # turns are in milliseconds

    assert sorted(take(side, 20)) == [*numbered("a", 5), *numbered("b", 5), *numbered("c", 5), *numbered("d", 5)]
    assert sorted(take(side, 10))[-6:] == [*numbered("e", 3), *numbered("f", 3)]


def test_of_many_functions_with_little_to_do_all_are_served_at_once(side: Side) -> None:
    names = numbered("n", 40)
    for name in names:
        push(side, "p", f"of {name}", function=name)

    assert sorted(take(side, 40)) == [f"of {name}" for name in names]


def test_a_project_without_room_keeps_its_turn(side: Side) -> None:
    push(side, "p", "a")
    push(side, "q", "b")
    is_full = ROOMS._replace(projects={"p": 0})

    assert take(side, 10, is_full) == ["b"]
    assert side.pool.ready.take(10, is_full).next_s is None
    assert take(side) == ["a"]


def test_no_more_is_taken_than_there_is_room(side: Side) -> None:
    push(side, "p", *numbered("f", 9), function="f")
    push(side, "p", *numbered("g", 9), function="g")
    push(side, "q", *numbered("q", 9))

    assert sorted(take(side, 50, Rooms(4, 3, {"q": 2}, {"f": 0}))) == ["g000", "g001", "g002", "q000", "q001"]
    assert sorted(take(side, 50, Rooms(4, 3, {}, {"g": 9}))) == ["f000", "f001", "g003", "g004", "q002", "q003", "q004"]


@pytest.mark.parametrize("kind", ["projects", "functions"])
def test_many_without_room_do_not_hide_another_one(side: Side, kind: str) -> None:
    names = numbered("n", 40)
    for name in names:
        project, function = (name, "") if kind == "projects" else ("p", name)
        push(side, project, f"of {name}", function=function)

    assert take(side, 10, ROOMS._replace(**{kind: dict.fromkeys(names[:39], 0)})) == ["of n039"]


def test_more_projects_than_are_looked_at_are_served_later(side: Side) -> None:
    names = numbered("n", 100)
    for name in names:
        push(side, name, f"of {name}")
    taken: list[str] = []
    while len(taken) < 100:
        some = side.pool.ready.take(110, ROOMS)
        assert some.ids
        taken += some.ids
        assert some.next_s == (0 if len(taken) < 100 else None)
    assert sorted(taken) == [f"of {name}" for name in names]


def test_an_execution_is_taken_when_it_is_due(side: Side) -> None:
    ready = side.pool.ready
    ready.push("p", "f", "later", now(side) + 60 * SECOND)
    ready.push("p", "f", "soon", now(side) + SECOND // 10)
    side.sync()

    first = ready.take(10, ROOMS)
    assert first.ids == []
    assert first.next_s is not None
    assert first.next_s < 1
    wait_until(lambda: take(side) == ["soon"])
    rest = ready.take(10, ROOMS)
    assert rest.next_s is not None
    assert 50 < rest.next_s <= 60


def test_a_drain_with_room_is_woken_by_the_next_push(side: Side, other: Side) -> None:
    woken: list[str] = []
    side.pool.on_notification("ready", lambda: woken.append("side"))
    other.pool.on_notification("ready", lambda: woken.append("other"))
    take(side)
    take(other)

    push(side, "p", "a")
    wait_until(lambda: woken == ["other"])
    push(side, "p", "b")
    wait_until(lambda: woken == ["other", "side"])
    push(side, "p", "c")

    assert take(side, 1) == ["a"], "this one has no room for more, so it is not woken"
    push(side, "p", "d")
    assert woken == ["other", "side"]


def test_executions_of_the_same_project_are_pushed_in_pages(side: Side) -> None:
    begin = now(side) - 10 * SECOND
    side.pool.ready.push_all("p", [("f", f"e{number:05}", begin + number) for number in range(2500)])

    taken = [execution_id for _ in range(3) for execution_id in take(side, 1000)]
    assert taken == [f"e{number:05}" for number in range(2500)]


def test_a_backlog_is_counted_and_a_target_compared(side: Side) -> None:
    generations = tuple(side.pool.generations(["function:f"]).items())
    assert side.pool.ready.backlog("p", generations) == (True, 0)
    push(side, "p", "a", "b")
    push(side, "q", "c")
    push(side, "p", "a")

    with side.pool.changing("function:f"):
        assert side.pool.ready.backlog("p", generations) == (False, 2)
    assert side.pool.ready.backlog("p", generations) == (False, 2)
    take(side, 1, ROOMS._replace(projects={"q": 0}))
    assert side.pool.ready.backlog("p", generations) == (False, 1)


def test_executions_that_have_ended_do_not_count_as_waiting(side: Side) -> None:
    later = now(side) + 60 * SECOND
    for execution_id in ("a", "b", "c"):
        side.pool.ready.push("p", "f", execution_id, later)
    side.pool.ready.drop("p", "f", ["a", "c", "unknown"])
    assert side.pool.ready.backlog("p", ()).size == 1
    side.pool.ready.drop("p", "f", ["b"])
    assert side.pool.ready.backlog("p", ()).size == 0
    assert take(side) == []


def test_a_push_of_old_executions_does_not_put_their_function_before_others(side: Side) -> None:
    begin = now(side) - 10 * SECOND
    side.pool.ready.push_all("p", [("f", f"f{number}", begin) for number in range(9)])
    side.pool.ready.push_all("p", [("g", f"g{number}", begin) for number in range(9)])
    one = Rooms(1, 1, {}, {})
    gevent.sleep(0.01)  # turns are in whole milliseconds
    first = take(side, 1, one)
    side.pool.ready.push_all("p", [(first[0][0], f"{first[0][0]}{number}", begin) for number in range(9)])

    assert take(side, 1, one)[0][0] != first[0][0]
