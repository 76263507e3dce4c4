"""The pool: who gets a worker, in which order, and within which limits."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.leases import Capacity, Lease
from qinling_falcon.pool.policy import Policy
from tests.pool.side import LIMITS, START_MS, Side, detail_of, end, wait_until


def test_a_warm_worker_is_assigned_and_then_belongs_to_its_target(side: Side) -> None:
    name = side.start()

    with side.lease("f") as first:
        worker = first.worker
        assert (worker.worker_id, worker.address, worker.secret) == (name, f"127.0.0.1:{name}", f"secret of {name}")
        assert (first.cold, worker.needs_load) == ("assign", True)
        end(first)
    second = side.lease("f")

    assert (second.worker.worker_id, second.cold, second.worker.needs_load) == (name, "none", False)
    assert second.worker.token > first.worker.token
    end(second)
    with pytest.raises(Unavailable):
        side.lease("g", wait_s=0)


def test_a_lease_that_is_over_releases_nothing_more(side: Side) -> None:
    side.start()
    first = side.run()
    second = side.lease()

    for destroy in (False, True):
        first.released(destroy=destroy)
    side.sync()

    assert side.leased() == {second.worker.worker_id}
    assert side.pool.find(second.execution_id) == detail_of(second)
    end(second)


def test_an_execution_is_found_until_it_is_committed(side: Side) -> None:
    side.start()
    lease = side.lease()
    assert side.pool.find(lease.execution_id) == detail_of(lease)

    lease.used()
    lease.released()
    side.sync()
    assert not side.leased()
    assert side.pool.find(lease.execution_id) == detail_of(lease)

    lease.committed()
    side.run()  # the acknowledgement travels with the next script
    assert side.pool.find(lease.execution_id) is None


def test_the_worker_of_an_execution_is_known_while_it_runs(side: Side) -> None:
    worker = side.start()
    first = side.lease()
    waiting = side.waiting()
    assert worker_of(side, first) == worker

    first.used()
    first.released()
    second = waiting.get(timeout=10)
    assert (worker_of(side, first), worker_of(side, second)) == (None, worker), "its lease was renewed"

    second.used()
    second.released()
    side.sync()
    wait_until(lambda: not side.leased())
    assert worker_of(side, second) is None
    for lease in (first, second):
        lease.committed()
    side.run()
    assert side.pool.inspection.execution(first.execution_id) is None


def worker_of(side: Side, lease: Lease) -> str | None:
    """The worker that runs an execution, as the operator sees it; None: it has answered."""
    found = side.pool.inspection.execution(lease.execution_id)
    assert found is not None
    assert (found.detail, found.process) == (detail_of(lease), "web-1")
    return None if found.worker is None else found.worker.id


def test_first_calls_at_once_never_exceed_the_limits_and_all_are_served(side: Side) -> None:
    """Forty callers, four of a function at once, six workers in all, started on demand."""
    running: set[str] = set()
    most = []

    def call(function: str) -> None:
        with side.lease(function, 30) as lease:
            assert lease.worker.worker_id not in running
            running.add(lease.worker.worker_id)
            most.append(int(side.registry.snapshot()["concurrency"][f"function {function}"]))
            gevent.sleep(0.002)
            running.discard(lease.worker.worker_id)
            end(lease)

    manager = gevent.spawn(manage, side)
    callers = [gevent.spawn(call, function) for function in ["f"] * 30 + ["g"] * 10]
    gevent.joinall(callers, timeout=40, raise_error=True)
    manager.kill()
    side.sync()

    assert all(caller.successful() for caller in callers)
    assert max(most) <= LIMITS.function_concurrency
    seen = side.registry.snapshot()
    assert not side.leased() and not side.all_waiting() and not seen["lost"]
    assert len(seen["workers"]) <= LIMITS.max_workers


def test_a_call_gets_the_worker_that_was_started_for_it(side: Side) -> None:
    caller = side.waiting()
    policy = Policy(LIMITS.max_workers, 2, START_MS)
    assert policy.decide(side.registry.view(), 2).starts == ["python3"]

    side.start()

    lease = caller.get(timeout=10)
    assert (lease.cold, lease.worker.needs_load) == ("start", True)
    assert policy.decide(side.registry.view(), 2).starts == ["python3", "python3"]  # two to be warm
    end(lease)


def test_calls_of_a_process_are_served_in_the_order_they_came(side: Side) -> None:
    side.start()
    lease = side.lease()
    callers = [side.waiting() for _ in range(3)]

    for caller in callers:
        end(lease)
        lease = caller.get(timeout=10)
        assert lease.cold == "none"

    end(lease)


def test_a_call_that_was_killed_gets_nothing_and_the_next_one_does(side: Side) -> None:
    side.start()
    lease = side.lease()
    killed, next_one = side.waiting(), side.waiting()

    killed.kill()
    end(lease)

    end(next_one.get(timeout=10))
    wait_until(lambda: not side.leased())


def test_callers_that_are_killed_at_any_moment_leave_no_lease_behind(side: Side) -> None:
    for _ in range(3):
        side.start()

    def call() -> None:
        with side.lease(wait_s=10) as lease:
            gevent.sleep(0.001)
            end(lease)

    callers = [gevent.spawn(call) for _ in range(40)]
    for count, caller in enumerate(callers):
        if count % 3:
            gevent.sleep(0.0005)
            caller.kill(block=False)
    gevent.joinall(callers, timeout=30)

    wait_until(lambda: not side.leased() and not side.all_waiting())
    assert side.registry.lost() == {}
    assert sorted(side.pool.workers("f", 0)) + sorted(side.registry.snapshot()["warm:python3"]) == ["w0", "w1", "w2"]


def test_a_call_that_waits_too_long_is_told_and_leaves_the_queue(side: Side) -> None:
    with pytest.raises(Unavailable) as refused:
        side.lease(wait_s=0.05)

    assert refused.value.retry_after_s
    wait_until(lambda: not side.all_waiting())


def test_a_limit_holds_back_calls_until_a_lease_of_it_ends(side: Side) -> None:
    for _ in range(6):
        side.start()
    leases = [side.lease("f") for _ in range(LIMITS.function_concurrency)]
    blocked = side.waiting(function="f")
    other = side.lease("g")  # of the same project, which is now at its limit too
    same_project = side.waiting(function="h")

    end(other)

    assert same_project.get(timeout=10).queue == side.request("h").queue
    assert not blocked.ready()
    end(leases[0])
    assert blocked.get(timeout=10).worker.worker_id == leases[0].worker.worker_id


def test_a_call_waits_beside_the_last_warm_worker_when_its_target_has_one(side: Side) -> None:
    """The reserve is for targets without a worker. While more are warm, a call takes one after its patience."""
    for _ in range(3):
        side.start()
    first, second = side.lease(), side.waiting().get(timeout=10)

    third = side.waiting()
    wait_until(lambda: side.request().queue in side.registry.snapshot()["escalated:python3"])
    assert list(side.registry.snapshot()["warm:python3"]) == ["w2"]
    assert not third.ready()

    end(side.lease("g"))  # has no worker, so the reserve is for it
    for lease in (first, second):
        end(lease)
    end(third.get(timeout=10))


def test_leases_renewals_and_releases_neither_start_nor_evict_workers(side: Side) -> None:
    for number in range(LIMITS.max_workers):
        side.start()
        side.run(f"f{number}")

    caller = side.waiting(function="new")
    side.run("f0")

    assert side.registry.draining() == []
    assert len(side.registry.snapshot()["workers"]) == LIMITS.max_workers
    caller.kill()


def test_at_max_workers_the_worker_that_the_manager_evicts_makes_room(side: Side) -> None:
    for number in range(LIMITS.max_workers):
        side.start()
        side.run(f"f{number}")
    side.sync()
    caller = side.waiting(function="new")
    [first, *_] = side.registry.view().idle

    assert first.id == "w0"
    assert side.registry.evict("w0")

    assert side.registry.draining() == ["w0"]
    side.registry.remove("w0")
    side.start()
    assert caller.get(timeout=10).cold == "start"


def test_a_worker_that_was_used_meanwhile_is_not_evicted(side: Side) -> None:
    side.start()
    lease = side.lease()
    assert not side.registry.evict("w0")
    end(lease)
    side.sync()
    assert not side.registry.evict("w0", unused_ms=60_000)
    assert side.registry.evict("w0")


def test_capacity_counts_what_answers(side: Side) -> None:
    assert side.pool.capacity("unknown") is None
    assert side.pool.capacity("python3") == Capacity(0, 0)
    side.start()
    side.start()
    lease = side.lease()
    assert side.pool.capacity("python3") == Capacity(total=2, available=1)
    end(lease, destroy=True)
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
    policy = Policy(LIMITS.max_workers, 2, START_MS)
    while True:
        side.registry.wait_for_work(0.05)
        for name in side.registry.draining():
            side.registry.remove(name)
        decision = policy.decide(side.registry.view(), 2)
        for runtime in decision.starts:
            side.start(runtime)
        for eviction in decision.evictions:
            side.registry.evict(eviction.worker, eviction.unused_ms)
        for recall in decision.recalls:
            side.registry.recall(recall.worker, recall.stands_ms)
        for worker in decision.taken_back:
            side.registry.recall(worker, 0)
