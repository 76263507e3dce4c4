"""Workers that a function gets ahead of its calls, and gives up again."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import StaleTarget
from qinling_falcon.pool.policy import Policy
from tests.pool.invariants import no_queue_waits_beside_a_worker_for_it
from tests.pool.side import LIMITS, START_MS, Side, end, reap_until, wait_until


def hold(side: Side, count: int, function: str = "f", **changes: object) -> list[str]:
    """Load `count` more workers with a function, and leave them idle."""
    for _ in range(count + 1):  # one stays warm
        side.start()
    leases = [side.lease(function, kind="warm", detail="", **changes) for _ in range(count)]
    for lease in leases:
        end(lease)
    side.sync()
    return [lease.worker.worker_id for lease in leases]


def test_a_drained_function_gets_other_workers(side: Side) -> None:
    hold(side, 2)
    leased, idle = side.lease("f"), side.run("f")

    side.pool.drain("f", 1)
    assert side.registry.draining() == []
    side.pool.drain("f")
    assert side.registry.draining() == [idle.worker.worker_id]
    end(leased)
    side.sync()

    assert set(side.registry.draining()) == {idle.worker.worker_id, leased.worker.worker_id}


def test_a_lease_of_kind_warm_gets_a_worker_that_holds_nothing(side: Side) -> None:
    side.start()
    side.run()
    with pytest.raises(Unavailable):
        side.lease(kind="warm", detail="", wait_s=0)
    side.start()
    with pytest.raises(Unavailable):  # the last one is for targets without a worker
        side.lease(kind="warm", detail="", wait_s=0)
    side.start()

    added = side.lease(kind="warm", detail="")

    assert (added.worker.worker_id, added.worker.needs_load) == ("w1", True)
    end(added)
    side.sync()
    assert side.pool.workers("f", 0) == ["w0", "w1"]
    assert {side.lease().worker.worker_id for _ in range(2)} == {"w0", "w1"}


def test_a_lease_of_kind_loaded_takes_only_a_worker_with_the_target_and_does_not_wait(side: Side) -> None:
    side.start()
    assert side.pool.lease_loaded(side.request()) is None
    held = side.lease()
    assert side.pool.lease_loaded(side.request()) is None
    end(held)

    lease = side.pool.lease_loaded(side.request())

    assert lease is not None
    assert (lease.worker.worker_id, lease.worker.needs_load, lease.cold) == (held.worker.worker_id, False, "none")
    end(lease)
    with side.pool.changing("function:f"):
        pass
    with pytest.raises(StaleTarget):
        side.pool.lease_loaded(side.request(generations=(("function:f", "old"),)))


def test_a_worker_that_got_no_request_is_what_it_was(side: Side) -> None:
    side.start()
    with side.lease() as lease:
        pass
    side.sync()
    assert side.pool.workers("f", 0) == []
    assert side.pool.find(lease.execution_id) is None

    with side.lease() as again:
        assert (again.worker.worker_id, again.worker.needs_load) == (lease.worker.worker_id, True)
        end(again)
    with side.lease():
        pass
    side.sync()

    assert side.pool.workers("f", 0) == [lease.worker.worker_id]
    assert not side.leased()


def test_a_worker_that_could_not_load_and_emptied_itself_is_warm_again(side: Side) -> None:
    side.start()
    with side.lease() as lease:
        lease.used()
        lease.unused()
    side.sync()
    assert side.pool.workers("f", 0) == [] and list(side.registry.snapshot()["warm:python3"]) == ["w0"]


def test_a_call_for_a_warm_worker_leaves_idle_ones_to_calls(side: Side) -> None:
    side.start()
    held = side.lease()
    grower = side.waiting(kind="warm", detail="")
    caller = side.waiting()

    end(held)

    assert caller.get(timeout=10).worker.worker_id == "w0"
    assert not grower.ready()
    assert Policy(LIMITS.max_workers, 4, START_MS).decide(side.registry.view(), 4).starts == ["python3"]
    side.start()
    assert grower.get(timeout=10).worker.worker_id == "w1"


def test_a_lease_without_an_execution_is_neither_found_nor_lost(side: Side) -> None:
    worker = side.start()
    with side.lease(kind="warm", detail="") as lease:
        lease.used()
        assert side.pool.find(lease.execution_id) is None
    reap_until(side, lambda: side.registry.draining() == [worker])
    assert side.registry.lost() == {}


def test_shrinking_ends_idle_workers_first_and_never_the_last(side: Side) -> None:
    hold(side, 4, version=2)
    leases = []
    for _ in range(4):
        leases.append(side.lease(version=2))
        gevent.sleep(0.002)  # the order of leases in the same millisecond is not known
    for lease in leases[:2]:
        end(lease)
    side.sync()

    assert side.pool.shrink("f", 1, 9) == 0
    assert side.pool.shrink("f", 2, 1) == 1
    assert side.registry.draining() == [leases[0].worker.worker_id]
    assert side.pool.shrink("f", 2, 9) == 2
    assert set(side.registry.draining()) == {lease.worker.worker_id for lease in leases[:2]}
    assert side.pool.workers("f", 2) == [leases[3].worker.worker_id]
    assert side.pool.shrink("f", 2, 9) == 0
    for lease in leases[2:]:
        end(lease)
    ended = {lease.worker.worker_id for lease in leases[:3]}
    wait_until(lambda: set(side.registry.draining()) == ended)


def test_workers_of_other_versions_are_not_counted(side: Side) -> None:
    for version in (1, 11):
        side.start()
        side.run(version=version)
    side.sync()
    assert side.pool.workers("f", 1) == ["w0"]
    assert side.pool.workers("f", 11) == ["w1"]
    assert side.pool.shrink("f", 1, 1) == 0


def test_the_last_warm_worker_goes_to_a_request_for_one_whose_target_has_lost_its_last_worker(side: Side) -> None:
    side.start()
    side.start()
    lease = side.lease()
    end(lease)
    side.sync()
    grower = side.waiting(kind="warm", detail="")
    gevent.sleep(0.05)
    assert not grower.ready()  # the last warm worker is kept for targets without one

    side.registry.remove(lease.worker.worker_id)

    no_queue_waits_beside_a_worker_for_it(side.registry.snapshot())  # it does not have to ask again
    end(grower.get(timeout=10))
