"""Workers, processes and servers that are lost: what becomes of their leases and waiters."""

from __future__ import annotations

import pytest

from qinling_falcon.pool.leases import StaleTarget
from qinling_falcon.pool.wire import PoolUnavailable
from tests.pool.side import Side, detail_of, reap_until
from tests.servers.valkey import valkey_server


def test_a_worker_that_is_gone_loses_its_lease_once(side: Side) -> None:
    worker = side.start()
    lease = side.pool.lease(side.request(), 1)
    side.registry.gone(worker)
    assert side.registry.lost() == {lease.execution_id: detail_of(lease)}
    side.registry.gone(worker)
    side.registry.settled([lease.execution_id])
    assert side.registry.lost() == {}
    assert not side.pool.release(lease)
    assert side.registry.known() == {}


def test_leases_of_a_process_that_died_are_lost_and_those_of_others_are_not(side: Side) -> None:
    side.start()
    side.start()
    dead = Side(side.connection.url, holder="web-2")
    theirs = dead.pool.lease(dead.request("g", execution_id="theirs", detail="their detail"), 1)
    ours = side.pool.lease(side.request("f"), 1)
    dead.close()
    reap_until(side, lambda: side.registry.lost() != {})
    assert side.registry.lost() == {"theirs": "their detail"}
    assert side.registry.doomed() == [theirs.worker_id]
    assert side.pool.release(ours)


def test_a_lease_past_its_deadline_is_lost(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(run_s=0.01), 1)
    reap_until(side, lambda: side.registry.lost() != {})
    assert not side.pool.release(lease)


def test_a_lease_that_its_process_does_not_know_is_lost(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(), 1)
    side.pool.abandon(lease)
    reap_until(side, lambda: side.registry.lost() != {})
    assert side.registry.doomed() == [lease.worker_id]


def test_callers_come_through_when_redis_is_emptied_under_them(side: Side) -> None:
    side.start()
    held = side.pool.lease(side.request(), 1)
    caller = side.waiting()
    side.connection.call("FLUSHALL")
    assert not side.pool.release(held)
    assert side.registry.known() == {}
    assert side.pool.find("nothing") is None
    side.registry.reap()
    with pytest.raises(StaleTarget):  # its heartbeat told it to ask again, and its generation is not there any more
        caller.get(timeout=10)
    side.registry.configure("python3", 2)
    side.start()
    assert side.pool.release(side.pool.lease(side.request(), 5))


def test_a_dead_server_is_unavailable_and_service_comes_back() -> None:
    with valkey_server() as mortal:
        side = Side(mortal.url)
        side.registry.configure("python3", 1)
        caller = side.waiting()
        mortal.kill()
        for attempt in (
            side.pool.wake,
            side.registry.plan,
            side.registry.reap,
            lambda: side.pool.capacity("python3"),
            lambda: side.pool.generations(["function:f"]),
        ):
            with pytest.raises(PoolUnavailable):
                attempt()
        mortal.start()
        side.registry.configure("python3", 1)
        side.start()
        with pytest.raises(StaleTarget):
            caller.get(timeout=15)
        assert side.pool.release(side.pool.lease(side.request(), 5))
        side.close()
