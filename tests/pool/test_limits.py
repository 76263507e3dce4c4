"""The manager's limits hold in all processes, whatever their own settings say: real Valkey."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.limits import CallBounds, Limits
from qinling_falcon.settings import Settings
from tests.pool.side import Side, wait_until


def test_limits_that_are_not_set_are_shares_of_all_workers() -> None:
    limits = Limits.of(Settings(), 48)
    assert (limits.of_function, limits.of_project, limits.of_runtime) == (32, 40, 10**9)
    assert (limits.waiting_of_function, limits.waiting_of_project, limits.waiting) == (96, 240, 2000)
    few, many = Limits.of(Settings(), 1), Limits.of(Settings(), 1000)
    assert (few.of_function, few.of_project, few.waiting_of_function, few.waiting_of_project) == (1, 1, 96, 240)
    assert (many.of_function, many.of_project, many.waiting_of_function) == (667, 834, 2001)


def test_limits_that_are_set_count() -> None:
    limits = Limits.of(Settings(function_concurrency=5, project_concurrency=6, runtime_concurrency=7), 48)
    assert (limits.of_function, limits.of_project, limits.of_runtime) == (5, 6, 7)
    assert limits.calls == CallBounds(5 + 15, 6 + 36)


def test_a_process_keeps_the_limits_of_the_manager(connection: PipelinedConnection) -> None:
    """The process and the manager have different settings."""
    side = Side(connection.url, Settings(function_concurrency=1000, holder_ttl_s=1))
    manager = Side(connection.url, Settings(function_concurrency=1, function_queue_factor=2, project_concurrency=10))
    try:
        manager.registry.configure("python3", 0)
        manager.registry.set_limits(20, 10)
        waiting = [gevent.spawn(side.pool.lease, side.request(), 30) for _ in range(2)]
        wait_until(lambda: len(side.registry.view().growing) == 1 and side.registry.view().growing[0].waiting == 2)

        with pytest.raises(Unavailable, match=r"2 of at most 2 \(FUNCTION_QUEUE_FACTOR"):
            side.pool.lease(side.request(), 30)

        wait_until(lambda: side.pool.call_bounds == CallBounds(1 + 2, 10 + 60))
        gevent.killall(waiting)
    finally:
        side.close()
        manager.close()


def test_a_runtime_has_no_more_leases_than_its_limit(connection: PipelinedConnection) -> None:
    side = Side(connection.url, Settings(runtime_concurrency=2))
    try:
        side.registry.configure("python3", 0)
        side.registry.set_limits(20, 10)
        for _ in range(3):
            side.start()
        held = [side.pool.lease(side.request(f"f{number}"), 0) for number in range(2)]
        with pytest.raises(Unavailable):
            side.pool.lease(side.request("g"), 0.3)
        with held.pop():  # it was not used, and is free again
            pass
        with side.pool.lease(side.request("g"), 5):
            pass
    finally:
        side.close()
