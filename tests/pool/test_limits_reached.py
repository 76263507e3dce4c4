"""Queues that a project's limit blocks: which one is served when a lease ends, and at what cost."""

from __future__ import annotations

import re

import pytest

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.runner import ScriptRunner
from tests.pool.side import Side

CALLER = "web-2"  # no process reads the notifications of these two
RUNNER = "web-3"


class Callers:
    """Calls of two processes, by scripts alone, at a limit of `leases` leases in their project."""

    def __init__(self, connection: PipelinedConnection, side: Side, leases: int):
        self.connection = connection
        self.scripts = ScriptRunner(connection)
        self.side = side
        self.scripts.run("set_limits", 100, leases, 100, 100, 20, 1000, 1000, 1000, 100)
        self.held: dict[str, tuple[bytes, bytes]] = {}

    def ask(self, request: LeaseRequest, holder: str, waited_ms: int = 0) -> list[bytes]:
        pairs = [word for pair in request.generations for word in pair]
        reply: list[bytes] = self.scripts.run(
            "lease", holder, "any", request.runtime_id, request.target, request.project_id, "", request.execution_id,
            30_000, request.detail, 1, waited_ms, "", *pairs,
        )  # fmt: skip
        return reply

    def lease(self, request: LeaseRequest) -> None:
        reply = self.ask(request, RUNNER)
        assert reply[0] == b"lease"
        self.held[request.target] = reply[1], reply[4]

    def release(self, request: LeaseRequest) -> None:
        worker, token = self.held[request.target]
        assert self.scripts.run("release", worker, token, 0, RUNNER, request.execution_id) == 1

    def offered(self) -> list[bytes]:
        """The queues whose calls were offered a worker."""
        messages = self.connection.call("LRANGE", f"{ANCHOR}:grants:{CALLER}", 0, -1)
        return [message.split(b'"')[1] for message in messages]

    def commands(self) -> int:
        stats = self.connection.call("INFO", "commandstats")
        return sum(int(calls) for name, calls in re.findall(rb"cmdstat_([^:]+):calls=(\d+)", stats) if name != b"info")


def test_at_the_limit_the_oldest_queue_of_the_project_goes_first(connection: PipelinedConnection, side: Side) -> None:
    callers = Callers(connection, side, leases=2)
    requests = [side.request(function=name) for name in "ab"]
    for request in requests:
        side.start()
        callers.lease(request)
    busy, idle = requests
    callers.release(idle)
    other = side.request(function="c")
    side.start()
    callers.lease(other)
    assert callers.ask(idle, CALLER, waited_ms=100)[0] == b"queued"
    assert callers.ask(busy, CALLER, waited_ms=50)[0] == b"queued"
    callers.release(busy)
    assert callers.offered() == [idle.queue.encode()]
    callers.release(other)
    assert callers.offered() == [idle.queue.encode(), busy.queue.encode()]


def test_at_the_limit_a_queue_keeps_its_worker_if_it_has_waited_longest(
    connection: PipelinedConnection, side: Side
) -> None:
    callers = Callers(connection, side, leases=1)
    own, other = (side.request(function=name) for name in "ab")
    for request in (other, own):
        side.start()
        callers.lease(request)
        if request is other:
            callers.release(other)
    assert callers.ask(own, CALLER, waited_ms=100)[0] == b"queued"
    # As when another lease had ended meanwhile: queues whose workers are all busy leave these sets.
    connection.call("ZREM", f"{ANCHOR}:blocked:project:p", own.queue)
    connection.call("ZREM", f"{ANCHOR}:blocked:runtime:python3", own.queue)
    assert callers.ask(other, CALLER, waited_ms=50)[0] == b"queued"

    callers.release(own)

    assert callers.offered() == [own.queue.encode()]


def test_a_function_whose_workers_are_busy_gets_a_warm_one_when_it_is_its_turn(
    connection: PipelinedConnection, side: Side
) -> None:
    callers = Callers(connection, side, leases=2)
    often, seldom = (side.request(function=name) for name in ("often", "seldom"))
    for _ in range(4):
        side.start()
    for request in (often, seldom):
        callers.lease(request)
    assert callers.ask(seldom, CALLER, waited_ms=100)[0] == b"queued"
    assert callers.ask(often, CALLER)[0] == b"queued"

    callers.release(often)

    assert callers.offered() == [seldom.queue.encode()]


def test_a_new_function_wants_a_worker_when_others_use_all_of_the_runtime(side: Side) -> None:
    """Only a limit that was set holds it back. So the manager makes room for it."""
    for number in range(side.settings.max_workers):
        side.start()
        side.lease(function=f"f{number}", project=f"p{number % 2}")

    waiting = side.waiting(function="new", project="another")

    assert [one.target for one in side.registry.view().growing] == ["new:0:digest"]
    waiting.kill()


def test_a_release_at_the_limit_costs_the_same_for_any_number_of_queues(
    connection: PipelinedConnection, side: Side
) -> None:
    callers = Callers(connection, side, leases=60)
    requests = [side.request(function=f"f{number}") for number in range(60)]
    for request in requests:
        side.start()
        callers.lease(request)
    costs = []
    for waiting in (requests[:8], requests[8:]):
        for request in waiting:
            assert callers.ask(request, CALLER)[0] == b"queued"
        for request in waiting[-8:]:
            before = callers.commands()
            callers.release(request)
            costs.append(callers.commands() - before)
    assert costs[15] <= costs[7]


@pytest.mark.parametrize("count", [3, 20])
def test_a_limit_that_is_reached_again_is_seen_at_the_first_queue(
    connection: PipelinedConnection, side: Side, count: int
) -> None:
    """Queues with an idle worker each, of which the limit lets only one go on."""
    callers = Callers(connection, side, leases=1)
    requests = [side.request(function=f"f{number}") for number in range(count)]
    for request in requests:
        side.start()
        callers.lease(request)
        callers.release(request)
    callers.lease(requests[0])
    for request in requests:
        assert callers.ask(request, CALLER)[0] == b"queued"
    before = callers.commands()
    callers.release(requests[0])
    assert callers.commands() - before < 50
    assert len(callers.offered()) == 1


def test_after_a_limit_was_raised_the_queues_go_on_at_the_manager_s_next_look(
    connection: PipelinedConnection, side: Side
) -> None:
    callers = Callers(connection, side, leases=1)
    requests = [side.request(function=f"f{number}") for number in range(3)]
    for request in requests:
        side.start()
        callers.lease(request)
        callers.release(request)
    callers.lease(requests[0])
    for request in requests[1:]:
        assert callers.ask(request, CALLER)[0] == b"queued"

    callers.scripts.run("set_limits", 100, 3, 100, 100, 20, 1000, 1000, 1000, 100)
    side.registry.view()

    assert sorted(callers.offered()) == sorted(request.queue.encode() for request in requests[1:])
