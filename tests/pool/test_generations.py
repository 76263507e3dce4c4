"""Generations: after a change, no call runs what was resolved before it."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.pool.generations import may_cache
from qinling_falcon.pool.leases import Capacity, Lease, LeaseRequest, StaleTarget
from qinling_falcon.pool.wire import PoolUnavailable
from tests.pool.side import Side
from tests.servers.valkey import valkey_server


def test_a_changed_target_is_not_run(side: Side) -> None:
    side.start()
    old = side.request()
    with side.pool.changing("function:f"):
        assert not may_cache(side.pool.generations(["function:f"])["function:f"])
        with pytest.raises(StaleTarget):
            side.pool.lease(old, 1)
        side.run()  # the change has not been answered yet
        during = side.request()
    for stale in (old, during):
        with pytest.raises(StaleTarget):
            side.pool.lease(stale, 1)
    assert side.pool.lease(side.request(), 1)


def test_what_was_resolved_before_a_change_is_stale_during_the_next_one(side: Side) -> None:
    side.start()
    with side.pool.changing("function:f"):
        during = side.request()
    with side.pool.changing("function:f"), pytest.raises(StaleTarget):
        side.pool.lease(during, 1)


def test_each_of_two_changes_at_once_makes_stale_what_was_resolved_before_its_end(side: Side) -> None:
    side.start()
    first, second = side.pool.changing("function:f"), side.pool.changing("function:f")
    with first:
        second.__enter__()
        during = side.request()
    with pytest.raises(StaleTarget):
        side.pool.lease(during, 1)
    assert not may_cache(side.pool.generations(["function:f"])["function:f"])
    during = side.request()
    second.__exit__(None, None, None)
    with pytest.raises(StaleTarget):
        side.pool.lease(during, 1)
    assert may_cache(side.pool.generations(["function:f"])["function:f"])


def test_a_change_that_fails_makes_what_is_cached_stale_too(side: Side) -> None:
    old = side.request()
    with pytest.raises(ZeroDivisionError), side.pool.changing("function:f"):
        raise ZeroDivisionError
    with pytest.raises(StaleTarget):
        side.pool.lease(old, 1)


def test_a_waiter_whose_target_changed_is_notified(side: Side) -> None:
    caller = side.waiting()
    with side.pool.changing("function:f"):
        pass
    side.start()
    with pytest.raises(StaleTarget):
        caller.get(timeout=10)
    assert side.pool.capacity("python3") == Capacity(total=1, available=1)


def test_no_generation_survives_a_restart_of_the_server_because_it_may_be_an_older_one() -> None:
    with valkey_server("--appendonly", "yes", "--appendfsync", "always") as server:
        side = Side(server.url)
        side.configure(1)
        side.start()
        cached = side.request()  # what this process has cached
        server.kill()
        server.start()
        with pytest.raises(StaleTarget):
            lease_when_back(side, cached)
        side.run()
        side.close()


def test_a_generation_is_made_anew_where_it_is_missing(side: Side) -> None:
    first = side.pool.generations(["function:a", "alias:b"])
    assert first == side.pool.generations(["function:a", "alias:b"])
    assert first["function:a"] != first["alias:b"]
    side.connection.call("FLUSHALL")
    assert side.pool.generations(["function:a"])["function:a"] != first["function:a"]


def lease_when_back(side: Side, request: LeaseRequest) -> Lease:
    with gevent.Timeout(10):
        while True:
            try:
                return side.pool.lease(request, 1)
            except PoolUnavailable:
                gevent.sleep(0.02)
