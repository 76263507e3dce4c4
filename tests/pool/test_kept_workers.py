"""Kept workers: which workers are kept for a target, and what does not end them."""

from __future__ import annotations

import pytest

from qinling_falcon.pool.leases import Lease
from qinling_falcon.pool.registry import Registry
from tests.pool.side import LIMITS, Side, wait_until

LATER_MS = 10_000_000
TARGET = "f:0:digest"


@pytest.fixture
def workers(side: Side) -> list[str]:
    """Three idle workers of the target."""
    side.registry.set_limits(LIMITS.max_workers, 20.0)
    for _ in range(LIMITS.max_workers):
        side.start()
    leases = [lease(side) for _ in range(3)]
    for one in leases:
        end(one)
    wait_until(lambda: len(side.registry.snapshot()["idle"]) == 3)
    return [one.worker.worker_id for one in leases]


def lease(side: Side) -> Lease:
    return side.pool.lease(side.request("f", kind="warm"), 0)


def end(one: Lease) -> None:
    with one:
        one.used()
        one.released()
        one.committed()


def kept(side: Side) -> set[str]:
    snapshot = side.registry.snapshot()
    return {worker for worker in snapshot["workers"] if "kept" in snapshot[f"worker:{worker}"]}


def test_as_many_are_kept_as_are_wanted_and_there_are(side: Side, workers: list[str]) -> None:
    assert side.pool.keep(TARGET, 2) == 2
    first = kept(side)
    assert len(first) == 2 and first < set(workers)
    assert side.pool.keep(TARGET, 2) == 2
    assert kept(side) == first

    assert side.pool.keep(TARGET, 5) == 3
    assert side.pool.kept() == {TARGET}
    assert side.pool.keep(TARGET, 1) == 1
    assert side.pool.keep(TARGET, 0) == 0
    assert (kept(side), side.pool.kept()) == (set(), set())


def test_they_can_be_evicted_again_when_they_are_kept_no_more(side: Side, workers: list[str]) -> None:
    before = side.registry.snapshot()["idle"]
    side.pool.keep(TARGET, 3)
    assert side.registry.snapshot()["idle"] == {}

    side.pool.keep(TARGET, 0)

    assert side.registry.snapshot()["idle"] == before


def test_a_kept_worker_is_not_evicted(side: Side, workers: list[str]) -> None:
    side.pool.keep(TARGET, 3)

    assert [side.registry.evict(worker) for worker in workers] == [False] * 3
    view = side.registry.view()
    assert view.idle == []
    assert [*view.largest, *view.longest_without_growth] == []


def test_a_kept_worker_is_not_ended_because_it_is_idle(side: Side, workers: list[str]) -> None:
    side.pool.keep(TARGET, 2)
    now = side.registry.snapshot()["now"]
    later = Registry(side.connection, LIMITS, clock=lambda: now + LATER_MS)

    later.reap()

    snapshot = side.registry.snapshot()
    assert len(snapshot["draining"].keys() & set(workers)) == 1
    assert not kept(side) & snapshot["draining"].keys()


def test_a_kept_worker_serves_and_stays_kept(side: Side, workers: list[str]) -> None:
    side.pool.keep(TARGET, 3)
    one = side.pool.lease(side.request("f"), 1)

    end(one)
    wait_until(lambda: not side.registry.snapshot()["leases"])

    assert one.cold == "none"
    assert side.registry.snapshot()["idle"] == {}
    assert side.pool.keep(TARGET, 3) == 3


def test_a_worker_that_is_gone_or_ends_counts_no_more(side: Side, workers: list[str]) -> None:
    side.pool.keep(TARGET, 3)
    side.registry.remove(workers[0])
    busy = side.pool.lease(side.request("f"), 1)
    side.pool.drain("f")

    assert side.pool.keep(TARGET, 3) == 0
    end(busy)


def test_a_worker_that_may_be_returned_unused_is_not_kept(side: Side, workers: list[str]) -> None:
    unused = lease(side)
    assert side.pool.keep(TARGET, 4) == 3

    with unused:
        pass  # nothing was sent to the worker

    wait_until(lambda: not side.registry.snapshot()["leases"])
    assert kept(side) == set(workers)
