"""The pool: who gets a worker, in which order, and within which limits."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.leases import Capacity
from tests.pool.side import LIMITS, Side, detail_of, wait_until


def test_a_warm_worker_is_assigned_and_then_belongs_to_its_target(side: Side) -> None:
    worker = side.start()
    first = side.pool.lease(side.request("f"), 1)
    assert (first.worker_id, first.address, first.secret) == (worker, f"127.0.0.1:{worker}", f"secret of {worker}")
    assert (first.cold, first.needs_load) == ("assign", True)
    assert side.pool.release(first)
    second = side.pool.lease(side.request("f"), 1)
    assert (second.worker_id, second.cold, second.needs_load) == (worker, "none", False)
    assert second.token > first.token
    side.pool.release(second)
    with pytest.raises(Unavailable):
        side.pool.lease(side.request("g"), 0)


def test_an_old_token_releases_nothing(side: Side) -> None:
    side.start()
    first = side.pool.lease(side.request(), 1)
    assert side.pool.release(first)
    second = side.pool.lease(side.request(), 1)
    assert not side.pool.release(first)
    assert not side.pool.release(first, destroy=True)
    assert side.pool.find(second.execution_id) == detail_of(second)
    assert side.pool.release(second)


def test_a_live_lease_can_be_found_by_its_execution(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(), 1)
    assert side.pool.find(lease.execution_id) == detail_of(lease)
    side.pool.release(lease)
    assert side.pool.find(lease.execution_id) is None


def test_first_calls_at_once_never_exceed_the_limits_and_all_are_served(side: Side) -> None:
    """Forty callers, four of a function at once, six workers in all, started on demand."""
    running: set[str] = set()
    most = []

    def call(function: str) -> None:
        lease = side.pool.lease(side.request(function), 30)
        assert lease.worker_id not in running
        running.add(lease.worker_id)
        most.append(len(side.registry.snapshot()["running:function:" + function]))
        gevent.sleep(0.002)
        running.discard(lease.worker_id)
        side.pool.release(lease)

    manager = gevent.spawn(manage, side)
    callers = [gevent.spawn(call, function) for function in ["f"] * 30 + ["g"] * 10]
    gevent.joinall(callers, timeout=40, raise_error=True)
    manager.kill()
    assert all(caller.successful() for caller in callers)
    assert max(most) <= LIMITS.function_concurrency
    seen = side.registry.snapshot()
    assert not seen["leases"] and not seen["waiters"] and not seen["lost"]
    assert len(seen["workers"]) <= LIMITS.max_workers


def test_a_waiter_gets_the_worker_that_was_started_for_it(side: Side) -> None:
    caller = side.waiting()
    assert side.registry.plan() == {"python3": 3}  # one for the waiter, two to be warm
    side.start()
    lease = caller.get(timeout=10)
    assert (lease.cold, lease.needs_load) == ("start", True)
    assert side.registry.plan() == {"python3": 2}
    assert side.pool.release(lease)


def test_waiters_are_served_in_the_order_they_came(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(), 1)
    callers = [side.waiting() for _ in range(3)]
    for caller in callers:
        side.pool.release(lease)
        lease = caller.get(timeout=10)
        assert lease.cold == "none"
    side.pool.release(lease)


def test_a_waiter_that_was_killed_gets_nothing_and_the_next_one_does(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(), 1)
    killed, next_one = side.waiting(), side.waiting()
    killed.kill()
    side.pool.release(lease)
    side.pool.release(next_one.get(timeout=10))
    wait_until(lambda: not side.registry.snapshot()["leases"])


def test_callers_that_are_killed_at_any_moment_leave_no_lease_behind(side: Side) -> None:
    for _ in range(3):
        side.start()

    def call() -> None:
        lease = None
        try:
            lease = side.pool.lease(side.request(), 10)
            gevent.sleep(0.001)
        finally:
            if lease:
                side.pool.release(lease)

    callers = [gevent.spawn(call) for _ in range(40)]
    for count, caller in enumerate(callers):
        if count % 3:
            gevent.sleep(0.0005)
            caller.kill(block=False)
    gevent.joinall(callers, timeout=30)
    wait_until(lambda: not side.registry.snapshot()["leases"] and not side.registry.snapshot()["waiters"])
    assert side.registry.lost() == {}


def test_a_call_that_waits_too_long_is_told_and_leaves_the_queue(side: Side) -> None:
    with pytest.raises(Unavailable) as refused:
        side.pool.lease(side.request(), 0.05)
    assert refused.value.retry_after_s
    assert not side.registry.snapshot()["waiters"]


def test_a_limit_holds_back_callers_until_a_lease_of_it_ends(side: Side) -> None:
    for _ in range(6):
        side.start()
    leases = [side.pool.lease(side.request("f"), 1) for _ in range(LIMITS.function_concurrency)]
    held_back = side.waiting(function="f")
    other = side.pool.lease(side.request("g"), 1)  # of the same project, which is now at its limit too
    same_project = side.waiting(function="h")
    side.pool.release(other)
    assert same_project.get(timeout=10).target.startswith("h:")
    assert not held_back.ready()
    side.pool.release(leases[0])
    assert held_back.get(timeout=10).worker_id == leases[0].worker_id


def test_at_max_workers_the_least_recently_used_worker_makes_room(side: Side) -> None:
    for number in range(LIMITS.max_workers):
        side.start()
        side.pool.release(side.pool.lease(side.request(f"f{number}"), 1))
    side.connection.call("DEL", keys.WAKEUPS)
    caller = side.waiting(function="new")
    assert side.registry.doomed() == ["w0"]
    side.registry.wait_for_work(20)
    side.registry.gone("w0")
    side.start()
    assert caller.get(timeout=10).cold == "start"


def test_a_release_that_nobody_waits_for_happens(side: Side) -> None:
    side.start()
    side.pool.release_soon(side.pool.lease(side.request(), 1))
    assert side.pool.lease(side.request(), 10).cold == "none"


def test_capacity_counts_what_answers(side: Side) -> None:
    assert side.pool.capacity("unknown") is None
    assert side.pool.capacity("python3") == Capacity(0, 0)
    side.start()
    side.start()
    lease = side.pool.lease(side.request(), 1)
    assert side.pool.capacity("python3") == Capacity(total=2, available=1)
    side.pool.release(lease, destroy=True)
    assert side.pool.capacity("python3") == Capacity(total=1, available=1)


def test_there_is_one_active_manager(side: Side) -> None:
    assert side.registry.claim_manager("a", 30) == "a"
    assert side.registry.claim_manager("a", 30) == "a"
    assert side.registry.claim_manager("b", 30) == "a"
    side.registry.resign_manager("b")
    assert side.registry.claim_manager("b", 30) == "a"
    side.registry.resign_manager("a")
    assert side.registry.claim_manager("b", 30) == "b"


def test_a_call_wakes_the_manager_when_it_needs_a_worker(side: Side) -> None:
    side.connection.call("DEL", keys.WAKEUPS)
    caller = side.waiting()
    with gevent.Timeout(10):
        side.registry.wait_for_work(60)
    caller.kill()


def manage(side: Side) -> None:
    """A pool manager whose workers start at once."""
    while True:
        side.registry.wait_for_work(0.05)
        for name in side.registry.doomed():
            side.registry.gone(name)
        for runtime, count in side.registry.plan().items():
            for _ in range(count):
                side.start(runtime)
