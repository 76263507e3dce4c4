"""The ready sets: executions that wait are taken once, from all projects in turn, and a drain with room is woken."""

from __future__ import annotations

from tests.pool.side import Side, wait_until

SECOND = 1_000_000


def push(side: Side, project: str, *ids: str) -> None:
    for execution_id in ids:
        side.pool.ready.push(project, execution_id)
    side.sync()


def now(side: Side) -> int:
    """The time of Redis, in microseconds."""
    seconds, micros = side.connection.call("TIME")
    return int(seconds) * SECOND + int(micros)


def take(side: Side, most: int = 10, *left_out: str) -> list[str]:
    return side.pool.ready.take(most, left_out).ids


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
    push(side, "large", *(f"l{number:02}" for number in range(100)))
    push(side, "small", "s0", "s1")
    push(side, "tiny", "t0")

    taken = take(side, 9)

    assert sorted(taken) == ["l00", "l01", "l02", "l03", "l04", "l05", "s0", "s1", "t0"]
    push(side, "small", "s2")
    assert "s2" in take(side, 2), "the project that was not served just now has its turn"


def test_a_project_that_is_left_out_keeps_its_place(side: Side) -> None:
    push(side, "p", "a")
    push(side, "q", "b")

    assert take(side, 10, "p") == ["b"]
    assert side.pool.ready.take(10, ["p"]).next_s is None
    assert take(side) == ["a"]


def test_many_projects_that_are_left_out_do_not_hide_another_one(side: Side) -> None:
    projects = [f"p{number:03}" for number in range(40)]
    for project in projects:
        push(side, project, f"of {project}")
    assert take(side, 10, *projects[:39]) == ["of p039"]


def test_an_execution_is_taken_when_it_is_due(side: Side) -> None:
    ready = side.pool.ready
    ready.push("p", "later", now(side) + 60 * SECOND)
    ready.push("p", "soon", now(side) + SECOND // 10)
    side.sync()

    first = ready.take(10, [])
    assert first.ids == []
    assert first.next_s is not None
    assert first.next_s < 1
    wait_until(lambda: take(side) == ["soon"])
    rest = ready.take(10, [])
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
    side.pool.ready.push_all("p", [(f"e{number:05}", begin + number) for number in range(2500)])

    taken = [execution_id for _ in range(3) for execution_id in take(side, 1000)]
    assert taken == [f"e{number:05}" for number in range(2500)]


def test_a_backlog_is_counted_and_a_target_compared(side: Side) -> None:
    generations = tuple(side.pool.generations(["function:f"]).items())
    assert side.pool.ready.backlog("p", generations) == (True, 0)
    push(side, "p", "a", "b")
    push(side, "q", "c")

    with side.pool.changing("function:f"):
        assert side.pool.ready.backlog("p", generations) == (False, 2)
    assert side.pool.ready.backlog("p", generations) == (False, 2)
