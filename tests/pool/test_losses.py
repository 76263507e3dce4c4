"""Workers, processes and servers that are lost: what becomes of their leases, executions and waiting calls."""

from __future__ import annotations

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import StaleTarget
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.wire import PoolUnavailable
from tests.pool.side import Side, detail_of, end, lost, may_run, reap_until, wait_until
from tests.servers.valkey import valkey_server


def test_a_worker_that_is_gone_loses_its_lease_once(side: Side) -> None:
    worker = side.start()
    lease = side.lease()

    side.registry.remove(worker)

    assert lost(side) == {lease.execution_id: detail_of(lease)}
    assert side.pool.find(lease.execution_id) == detail_of(lease), "until it is recorded"
    side.registry.remove(worker)
    side.registry.acknowledge_lost([lease.execution_id])
    assert side.registry.lost() == {}
    end(lease)
    side.sync()
    assert side.registry.workers() == {}


def test_everything_in_the_journal_of_a_dead_process_is_lost_and_nothing_of_others(side: Side) -> None:
    """The dead process had three executions: one was running, and two were answered and not committed."""
    for _ in range(5):
        side.start()
    dead = Side(side.connection.url, holder="web-2")
    for number in range(2):
        lease = dead.lease("g", execution_id=f"answered {number}", detail=f"their {number}")
        lease.used()
        lease.released()
    running = dead.lease("g", execution_id="running", detail="their 2")
    committed = dead.lease("h", execution_id="committed")
    end(committed)
    dead.sync()
    ours = side.lease("f")
    dead.pool._beat()
    dead.close()

    reap_until(side, lambda: len(side.registry.lost()) == 3)

    assert lost(side) == {"answered 0": "their 0", "answered 1": "their 1", "running": "their 2"}
    assert may_run(side) == {"running": running.worker.worker_id}, "the others were answered"
    assert side.registry.draining() == [running.worker.worker_id]
    reap_until(side, lambda: "journal:web-2" not in side.registry.snapshot())
    assert side.leased() == {ours.worker.worker_id}
    end(ours)


def test_the_journal_of_a_dead_process_of_an_older_release_is_lost(side: Side) -> None:
    detail = '{"id":"e","description":"in 5 s"}'  # without a worker and a token
    side.connection.call("HSET", f"{ANCHOR}:journal:old", "e", detail)
    side.connection.call("ZADD", f"{ANCHOR}:holders", 1, "old")

    assert side.pool.find("e") == detail
    reap_until(side, lambda: lost(side) == {"e": detail})


def test_a_lease_past_its_deadline_is_lost(side: Side) -> None:
    side.start()
    lease = side.lease(run_s=0.01)
    reap_until(side, lambda: side.registry.lost() != {})
    assert lost(side) == {lease.execution_id: detail_of(lease)}
    assert side.registry.draining() == [lease.worker.worker_id]


def test_the_journal_of_a_process_that_dies_before_redis_knows_it_is_lost(side: Side) -> None:
    """Redis was emptied. Since then the process has got a worker and released it, and was killed before its commit."""
    side.connection.call("FLUSHALL")
    side.configure(warm=0)
    side.start()
    call = ["dead", "any", "python3", "f:0:digest", "p", "", "e", 30_000, "detail", 0, 0, ""]
    _, worker, _, _, token, *_ = side.pool._scripts.run("lease", *call)
    assert side.pool._scripts.run("release", worker, token, 0, "dead", "") == 1

    reap_until(side, lambda: lost(side) == {"e": "detail"})

    assert "journal:dead" not in side.registry.snapshot()


def test_entries_of_a_process_that_dies_before_redis_knows_it_leave_the_queue(side: Side) -> None:
    """Redis was emptied, and all that it heard of the process since then was that a call wants one more worker."""
    entry = "python3|f:0:digest|any|p"
    side.connection.call("FLUSHALL")
    side.configure(warm=0)
    side.pool._scripts.run("escalate", "dead", entry, "=1", 2000, "")
    assert side.registry.snapshot()[f"counts:{entry}"] == {"dead": "1"}

    reap_until(side, lambda: f"counts:{entry}" not in side.registry.snapshot())

    assert side.connection.call("HGET", f"{ANCHOR}:waiting", "all") in (None, b"0")


def test_the_deadline_is_that_of_the_execution_that_runs(side: Side) -> None:
    side.start()
    first = side.lease(run_s=0.5)
    second = side.waiting()
    end(first)
    lease = second.get(timeout=10)
    deadline = side.registry.snapshot()["leases"][lease.worker.worker_id]
    assert deadline > side.registry.snapshot()["now"] + 20_000
    end(lease)


def test_a_lease_that_its_process_does_not_know_is_lost(side: Side) -> None:
    side.start()
    lease = side.lease()
    side.pool._local_queues.held.clear()  # as if the answer had never come
    reap_until(side, lambda: side.registry.lost() != {})
    assert side.registry.draining() == [lease.worker.worker_id]


def test_a_worker_in_an_unknown_state_drains_and_its_execution_is_lost(side: Side) -> None:
    side.start()
    with pytest.raises(ZeroDivisionError), side.lease() as lease:
        lease.used()
        raise ZeroDivisionError
    wait_until(lambda: lost(side) == {lease.execution_id: detail_of(lease)})
    assert may_run(side) == {lease.execution_id: lease.worker.worker_id}
    assert side.registry.draining() == [lease.worker.worker_id]
    assert side.pool.find(lease.execution_id) == detail_of(lease)
    assert not side.leased()


def test_an_answered_execution_that_is_not_committed_is_lost_and_its_worker_goes_on(side: Side) -> None:
    side.start()
    with pytest.raises(ZeroDivisionError), side.lease() as lease:
        lease.used()
        lease.released()
        raise ZeroDivisionError
    wait_until(lambda: lost(side) == {lease.execution_id: detail_of(lease)})
    assert may_run(side) == {}
    assert side.registry.draining() == []
    assert side.run().worker.worker_id == lease.worker.worker_id


def test_an_execution_that_was_withdrawn_is_not_lost(side: Side) -> None:
    side.start()
    with side.lease() as lease:
        lease.used()
        lease.withdrawn()
        lease.released()
    side.run()
    assert side.pool.find(lease.execution_id) is None
    assert side.registry.lost() == {}


def test_callers_come_through_when_redis_is_emptied_under_them(side: Side) -> None:
    side.start()
    held = side.lease()
    caller = side.waiting()
    side.connection.call("FLUSHALL")
    end(held)
    assert side.registry.workers() == {}
    assert side.pool.find("nothing") is None
    side.registry.reap()
    with pytest.raises((StaleTarget, Unavailable)):  # it asks again, and its generation is not there any more
        caller.get(timeout=10)
    side.configure()
    side.start()
    side.run()


def test_a_dead_server_is_unavailable_and_service_comes_back() -> None:
    with valkey_server() as mortal:
        side = Side(mortal.url)
        side.configure(1)
        caller = side.waiting()
        mortal.kill()
        for attempt in (
            side.pool.wake,
            side.registry.view,
            side.registry.reap,
            lambda: side.pool.capacity("python3"),
            lambda: side.pool.generations(["function:f"]),
        ):
            with pytest.raises(PoolUnavailable):
                attempt()
        mortal.start()
        side.configure(1)
        side.start()
        with pytest.raises((StaleTarget, PoolUnavailable)):
            caller.get(timeout=15)
        side.run()
        side.close()
