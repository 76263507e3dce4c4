from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.generations import lasting
from qinling_falcon.pool.leases import Capacity, Lease, LeaseRequest, StaleTarget
from qinling_falcon.pool.wire import PoolUnavailable
from tests.pool.side import LIMITS, Side, reap_until, wait_until
from tests.servers.valkey import valkey_server


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


def test_a_changed_target_is_not_run(side: Side) -> None:
    side.start()
    old = side.request()
    with side.pool.changing("function:f"):
        assert not lasting(side.pool.generations(["function:f"])["function:f"])
        with pytest.raises(StaleTarget):
            side.pool.lease(old, 1)
        assert side.pool.release(side.pool.lease(side.request(), 1))  # the change has not been answered yet
        during = side.request()
    for stale in (old, during):
        with pytest.raises(StaleTarget):
            side.pool.lease(stale, 1)
    assert side.pool.lease(side.request(), 1)


def test_what_was_resolved_before_a_change_is_stale_amid_the_next_one(side: Side) -> None:
    side.start()
    with side.pool.changing("function:f"):
        during = side.request()
    with side.pool.changing("function:f"), pytest.raises(StaleTarget):
        side.pool.lease(during, 1)


def test_of_two_changes_at_once_each_makes_stale_what_was_resolved_before_its_end(side: Side) -> None:
    side.start()
    first, second = side.pool.changing("function:f"), side.pool.changing("function:f")
    with first:
        second.__enter__()
        during = side.request()
    with pytest.raises(StaleTarget):
        side.pool.lease(during, 1)
    assert not lasting(side.pool.generations(["function:f"])["function:f"])
    during = side.request()
    second.__exit__(None, None, None)
    with pytest.raises(StaleTarget):
        side.pool.lease(during, 1)
    assert lasting(side.pool.generations(["function:f"])["function:f"])


def test_a_change_that_fails_makes_what_is_cached_stale_too(side: Side) -> None:
    old = side.request()
    with pytest.raises(ZeroDivisionError), side.pool.changing("function:f"):
        raise ZeroDivisionError
    with pytest.raises(StaleTarget):
        side.pool.lease(old, 1)


def test_a_waiter_whose_target_changed_is_told(side: Side) -> None:
    caller = side.waiting()
    with side.pool.changing("function:f"):
        pass
    side.start()
    with pytest.raises(StaleTarget):
        caller.get(timeout=10)
    assert side.pool.capacity("python3") == Capacity(total=1, available=1)


def test_a_drained_function_gets_other_workers(side: Side) -> None:
    side.start()
    side.start()
    idle, leased = side.pool.lease(side.request("f"), 1), side.pool.lease(side.request("f"), 1)
    side.pool.release(idle)
    side.pool.drain("f", 1)
    assert side.registry.doomed() == []
    side.pool.drain("f")
    assert side.registry.doomed() == [idle.worker_id]
    assert side.pool.release(leased)
    assert set(side.registry.doomed()) == {idle.worker_id, leased.worker_id}


def test_a_fresh_lease_gets_a_worker_that_holds_nothing(side: Side) -> None:
    side.start()
    held = side.pool.lease(side.request(), 1)
    side.pool.release(held)
    with pytest.raises(Unavailable):
        side.pool.lease(side.request(fresh=True, detail=""), 0)
    side.start()
    added = side.pool.lease(side.request(fresh=True, detail=""), 1)
    assert (added.worker_id, added.needs_load) == ("w1", True)
    side.pool.release(added)
    assert side.pool.workers("f", 0) == ["w0", "w1"]
    assert {side.pool.lease(side.request(), 1).worker_id for _ in range(2)} == {"w0", "w1"}


def test_a_loaded_lease_takes_no_worker_that_holds_nothing_and_waits_for_none(side: Side) -> None:
    side.start()
    assert side.pool.lease_loaded(side.request()) is None
    held = side.pool.lease(side.request(), 1)
    assert side.pool.lease_loaded(side.request()) is None
    side.pool.release(held)
    lease = side.pool.lease_loaded(side.request())
    assert lease is not None
    assert (lease.worker_id, lease.needs_load, lease.cold) == (held.worker_id, False, "none")
    side.pool.release(lease)
    with side.pool.changing("function:f"):
        pass
    with pytest.raises(StaleTarget):
        side.pool.lease_loaded(side.request(generations=(("function:f", "old"),)))


def test_a_worker_that_is_given_back_is_what_it_was(side: Side) -> None:
    side.start()
    lease = side.pool.lease(side.request(), 1)
    side.pool.give_back(lease)
    assert not side.pool.release(lease)
    assert side.pool.workers("f", 0) == []
    again = side.pool.lease(side.request(), 1)
    assert (again.worker_id, again.needs_load) == (lease.worker_id, True)
    side.pool.release(again)
    held = side.pool.lease(side.request(), 1)
    side.pool.give_back(held)
    assert side.pool.workers("f", 0) == [lease.worker_id]


def test_who_waits_for_a_fresh_worker_leaves_idle_ones_to_calls(side: Side) -> None:
    side.start()
    held = side.pool.lease(side.request(), 1)
    grower = side.waiting(fresh=True, detail="")
    caller = side.waiting()
    assert side.registry.plan() == {"python3": 4}  # one each, two to be warm
    side.pool.release(held)
    assert caller.get(timeout=10).worker_id == "w0"
    assert not grower.ready()
    side.start()
    assert grower.get(timeout=10).worker_id == "w1"


def test_scaling_up_takes_no_worker_of_the_same_version_to_make_room(side: Side) -> None:
    for function in ("f", "g"):
        for _ in range(3):
            side.start()
        for lease in [side.pool.lease(side.request(function), 1) for _ in range(3)]:
            side.pool.release(lease)
    growers = [side.waiting(fresh=True, detail="") for _ in range(4)]
    assert side.pool.workers("f", 0) == ["w0", "w1", "w2"]
    assert side.registry.doomed() == ["w3", "w4", "w5"]
    gevent.killall(growers)


def test_a_lease_without_an_execution_is_neither_found_nor_lost(side: Side) -> None:
    worker = side.start()
    lease = side.pool.lease(side.request(fresh=True, detail=""), 1)
    assert side.pool.find(lease.execution_id) is None
    side.pool.abandon(lease)
    reap_until(side, lambda: side.registry.doomed() == [worker])
    assert side.registry.lost() == {}


def test_shrinking_ends_idle_workers_first_and_never_the_last(side: Side) -> None:
    for _ in range(4):
        side.start()
    leases = [side.pool.lease(side.request("f", version=2), 1) for _ in range(4)]
    for lease in leases[:2]:
        side.pool.release(lease)
    assert side.pool.shrink("f", 1, 9) == 0
    assert side.pool.shrink("f", 2, 1) == 1
    assert side.registry.doomed() == [leases[0].worker_id]
    assert side.pool.shrink("f", 2, 9) == 2
    assert side.registry.doomed() == [leases[0].worker_id, leases[1].worker_id]
    assert side.pool.workers("f", 2) == [leases[3].worker_id]
    assert side.pool.shrink("f", 2, 9) == 0
    for lease in leases[2:]:
        assert side.pool.release(lease)
    assert side.registry.doomed()[2:] == [leases[2].worker_id]


def test_workers_of_other_versions_are_not_counted(side: Side) -> None:
    for version in (1, 11):
        side.start()
        side.pool.release(side.pool.lease(side.request("f", version=version), 1))
    assert side.pool.workers("f", 1) == ["w0"]
    assert side.pool.workers("f", 11) == ["w1"]
    assert side.pool.shrink("f", 1, 1) == 0


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


def test_no_generation_survives_a_restart_of_the_server_for_it_may_be_an_older_one() -> None:
    with valkey_server("--appendonly", "yes", "--appendfsync", "always") as server:
        side = Side(server.url)
        side.registry.configure("python3", 1)
        side.start()
        cached = side.request()  # what this process has cached
        server.kill()
        server.start()
        with pytest.raises(StaleTarget):
            lease_when_back(side, cached)
        assert side.pool.release(side.pool.lease(side.request(), 5))
        side.close()


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


def test_a_generation_is_made_anew_where_it_is_missing(side: Side) -> None:
    first = side.pool.generations(["function:a", "alias:b"])
    assert first == side.pool.generations(["function:a", "alias:b"])
    assert first["function:a"] != first["alias:b"]
    side.connection.call("FLUSHALL")
    assert side.pool.generations(["function:a"])["function:a"] != first["function:a"]


def detail_of(lease: Lease) -> str:
    return f"detail of {lease.execution_id}"


def manage(side: Side) -> None:
    """A pool manager whose workers start at once."""
    while True:
        side.registry.wait_for_work(0.05)
        for name in side.registry.doomed():
            side.registry.gone(name)
        for runtime, count in side.registry.plan().items():
            for _ in range(count):
                side.start(runtime)


def lease_when_back(side: Side, request: LeaseRequest) -> Lease:
    with gevent.Timeout(10):
        while True:
            try:
                return side.pool.lease(request, 1)
            except PoolUnavailable:
                gevent.sleep(0.02)
