"""Workers that a function gets ahead of its calls, and gives up again."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import StaleTarget
from tests.pool.side import Side, reap_until


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


def test_a_loaded_lease_takes_only_a_worker_with_the_target_and_does_not_wait(side: Side) -> None:
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


def test_a_waiter_for_a_fresh_worker_leaves_idle_ones_to_calls(side: Side) -> None:
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
