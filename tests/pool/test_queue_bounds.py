"""The queue for workers is limited by function, by project and in total, and every way out of it frees the place."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import StaleTarget
from qinling_falcon.settings import Settings
from tests.pool.side import Side, end, reap_until, wait_until
from tests.servers.valkey import valkey_server

BOUNDS = Settings(
    max_workers=6, holder_ttl_s=3.0, max_waiters=30,
    function_concurrency=2, function_queue_factor=2, project_concurrency=3, project_queue_factor=4,
)  # fmt: skip
OF_FUNCTION, OF_PROJECT, OF_ALL = 4, 12, 30
# A web process with 500 calls of one function that wait. It says so, and waits to be killed.
WAITING_PROCESS = """
import sys, gevent, dataclasses
from tests.pool.side import Side
from tests.pool.test_queue_bounds import ROOMY, count_of
side = Side(sys.argv[1], ROOMY, holder="web-killed")
request = side.request("f")
callers = [gevent.spawn(side.pool.lease, request, 600) for _ in range(500)]
while count_of(side, "function f") < 500:
    gevent.sleep(0.05)
print("waiting", flush=True)
gevent.sleep(600)
"""
ROOMY = dataclasses.replace(BOUNDS, max_waiters=2000, function_queue_factor=250, project_queue_factor=500)


@pytest.fixture
def side(connection: PipelinedConnection) -> Iterator[Side]:
    side = Side(connection.url, BOUNDS)
    side.configure(0)
    yield side
    side.close()


def count_of(side: Side, whose: str) -> int:
    """The number of waiting calls that a limit counts."""
    return int(side.registry.snapshot()["waiting"].get(whose, 0))


def crowd(side: Side, count: int, wait_s: float = 60, **changes: Any) -> list[gevent.Greenlet]:
    """Start calls at the same time, and wait until each one is queued or refused."""
    before = side.all_waiting()
    callers = [gevent.spawn(outcome, side, wait_s, changes) for _ in range(count)]
    wait_until(lambda: side.all_waiting() - before + sum(map(gevent.Greenlet.ready, callers)) == count)
    return callers


def outcome(side: Side, wait_s: float, changes: dict[str, Any]) -> Any:
    """The lease or the error. Errors are returned, because gevent prints an exception that ends a greenlet."""
    try:
        return side.pool.lease(side.request(**changes), wait_s)
    except (Unavailable, StaleTarget) as error:
        return error


def refusals(callers: list[gevent.Greenlet]) -> list[Unavailable]:
    return [caller.value for caller in callers if caller.ready()]


def test_calls_of_one_function_wait_up_to_its_bound(side: Side) -> None:
    callers = crowd(side, OF_FUNCTION + 3)

    refused = refusals(callers)
    assert len(refused) == 3
    for error in refused:
        assert (error.status, error.retry_after_s) == (503, 1)
        assert "function f" in error.message and f"{OF_FUNCTION} of at most {OF_FUNCTION}" in error.message
        assert "FUNCTION_QUEUE_FACTOR" in error.message and "has not run" in error.message
    assert count_of(side, "function f") == OF_FUNCTION
    gevent.killall(callers)


def test_a_full_queue_of_one_function_keeps_no_other_out(side: Side) -> None:
    callers = crowd(side, OF_FUNCTION + 3)

    others = crowd(side, 1, function="g") + crowd(side, 1, function="h")

    assert refusals(others) == []
    gevent.killall(callers + others)


def test_versions_of_a_function_wait_within_one_bound(side: Side) -> None:
    callers = [caller for version in range(OF_FUNCTION + 2) for caller in crowd(side, 1, version=version)]

    assert len(refusals(callers)) == 2
    gevent.killall(callers)


def test_calls_of_one_project_wait_up_to_its_bound_however_many_functions_it_has(side: Side) -> None:
    callers = [caller for number in range(OF_PROJECT + 5) for caller in crowd(side, 1, function=f"f{number}")]

    refused = refusals(callers)
    assert len(refused) == 5
    assert "project p" in refused[0].message and f"{OF_PROJECT} of at most {OF_PROJECT}" in refused[0].message
    assert "PROJECT_QUEUE_FACTOR" in refused[0].message
    others = crowd(side, 1, function="theirs", project="q")
    assert refusals(others) == []
    gevent.killall(callers + others)


def test_one_function_takes_no_more_of_its_projects_places_than_it_leaves(connection: PipelinedConnection) -> None:
    side = Side(connection.url, dataclasses.replace(BOUNDS, function_queue_factor=100))
    side.configure(0)
    callers = crowd(side, OF_PROJECT)

    assert len(refusals(callers)) == OF_PROJECT / 2
    others = crowd(side, OF_PROJECT, function="g")
    assert count_of(side, "function g") == OF_PROJECT / 4
    third = crowd(side, 1, function="h")
    assert refusals(third) == []
    gevent.killall(callers + others + third)
    side.close()


def test_one_project_takes_no_more_of_all_places_than_it_leaves(connection: PipelinedConnection) -> None:
    side = Side(connection.url, dataclasses.replace(BOUNDS, function_queue_factor=100, project_queue_factor=100))
    side.configure(0)
    callers = crowd(side, OF_ALL)

    refused = refusals(callers)
    assert len(refused) == OF_ALL / 2
    assert "MAX_WAITERS" in refused[0].message and str(OF_ALL) not in refused[0].message
    others = crowd(side, 1, function="theirs", project="q")
    assert refusals(others) == []
    gevent.killall(callers + others)
    side.close()


def test_a_full_queue_keeps_no_call_from_an_idle_worker(side: Side) -> None:
    side.configure(6)
    for _ in range(BOUNDS.function_concurrency + 1):
        side.start()
    busy = [side.lease("f") for _ in range(BOUNDS.function_concurrency)]
    callers = crowd(side, OF_FUNCTION + 1)

    side.run("g")

    gevent.killall(callers)
    for lease in busy:
        end(lease)


def test_each_way_out_of_the_queue_frees_a_place(side: Side) -> None:
    late = crowd(side, OF_FUNCTION, wait_s=0.5)
    gevent.joinall(late, timeout=30)
    wait_until(lambda: count_of(side, "function f") == count_of(side, "project p") == 0)

    killed = crowd(side, OF_FUNCTION)
    assert refusals(killed) == []
    gevent.killall(killed)
    wait_until(lambda: not count_of(side, "function f"))

    served = crowd(side, OF_FUNCTION)
    assert refusals(served) == []
    side.configure(1)
    side.start()
    for caller in served:
        end(caller.get(timeout=30))
    wait_until(lambda: count_of(side, "function f") == count_of(side, "project p") == 0)

    side.registry.remove("w0")
    stale = crowd(side, OF_FUNCTION)
    with side.pool.changing("function:f"):
        pass
    side.start()
    assert all(isinstance(caller.get(timeout=30), StaleTarget) for caller in stale)
    wait_until(lambda: count_of(side, "function f") == count_of(side, "project p") == 0)


def test_waiters_of_a_killed_process_are_counted_no_more(connection: PipelinedConnection) -> None:
    side = Side(connection.url, ROOMY)
    side.configure(0)
    command = [sys.executable, "-c", WAITING_PROCESS, connection.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.kill()
    assert count_of(side, "function f") == count_of(side, "project p") == 500

    reap_until(side, lambda: not count_of(side, "function f"))

    assert count_of(side, "project p") == side.all_waiting() == 0
    assert [key for key in connection.call("KEYS", "*") if b"queue:" in key or b"entries:" in key] == []
    side.close()


def test_waiters_are_counted_anew_when_redis_was_emptied(side: Side) -> None:
    callers = crowd(side, OF_FUNCTION)
    side.connection.call("FLUSHALL")

    refused = [caller.get(timeout=30) for caller in callers]

    assert all(isinstance(error, StaleTarget) for error in refused)  # asked again, under a generation that is gone
    side.configure(0)
    again = crowd(side, OF_FUNCTION + 1)
    assert len(refusals(again)) == 1
    gevent.killall(again)


@pytest.mark.parametrize("options", [(), ("--appendonly", "yes", "--appendfsync", "always")], ids=["lost", "kept"])
def test_the_count_is_right_after_a_restart_of_redis(options: tuple[str, ...]) -> None:
    """Waiters ask again, whether Redis has kept or lost them. No waiter is counted twice or for ever."""
    with valkey_server(*options) as server:
        side = Side(server.url, BOUNDS)
        side.configure(0)
        callers = crowd(side, OF_FUNCTION)
        server.kill()
        server.start()
        for caller in callers:
            assert isinstance(caller.get(timeout=30), StaleTarget | Unavailable)

        reap_until(side, lambda: not count_of(side, "function f"))

        side.configure(0)
        again = crowd(side, OF_FUNCTION + 1)
        assert len(refusals(again)) == 1
        gevent.killall(again)
        side.close()
