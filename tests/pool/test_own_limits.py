"""The `concurrency` of a function and of a version: how many leases each may have at once."""

from __future__ import annotations

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import Lease
from tests.pool.side import LIMITS, Side, wait_until


@pytest.fixture
def workers(side: Side) -> list[str]:
    """Six warm workers."""
    side.registry.set_limits(LIMITS.max_workers, 20.0)
    return [side.start() for _ in range(LIMITS.max_workers)]


def lease(side: Side, version: int = 0, concurrency: int | None = None) -> Lease:
    """Lease a warm worker: there is one, so only a limit refuses that."""
    return side.pool.lease(side.request("f", version, concurrency=concurrency, kind="warm"), 0)


def end(lease: Lease) -> None:
    lease.used()
    lease.released()
    lease.committed()


def test_a_burst_of_first_calls_never_exceeds_the_limit(side: Side) -> None:
    """Each worker that becomes ready is offered to the queue, which wants more."""
    side.registry.set_limits(LIMITS.max_workers, 20.0)
    running, most, answered = set(), 0, 0

    def call() -> None:
        nonlocal most, answered
        with side.pool.lease(side.request("f", concurrency=2), 20) as lease:
            running.add(lease.execution_id)
            most = max(most, len(running))
            gevent.sleep(0.02)
            running.remove(lease.execution_id)
            end(lease)
        answered += 1

    calls = [gevent.spawn(call) for _ in range(30)]
    for _ in range(LIMITS.max_workers):
        gevent.sleep(0.01)
        side.start()
    gevent.joinall(calls, timeout=30, raise_error=True)

    assert (most, answered) == (2, 30)


def test_each_version_has_a_limit_of_its_own(side: Side, workers: list[str]) -> None:
    held = [lease(side, 0, 1), lease(side, 1, 2), lease(side, 1, 2)]

    for version, concurrency in ((0, 1), (1, 2)):
        with pytest.raises(Unavailable):
            lease(side, version, concurrency)
    end(held[1])

    lease(side, 1, 2)
    lease(side, 2)


def test_the_limit_of_the_service_counts_all_versions(side: Side, workers: list[str]) -> None:
    for version in range(LIMITS.function_concurrency):
        lease(side, version, 3)

    with pytest.raises(Unavailable):
        lease(side, 0, 3)


def test_a_new_limit_applies_from_the_next_call_on(side: Side, workers: list[str]) -> None:
    held = lease(side, 0, 1)
    lease(side, 0, 2)
    end(held)

    with pytest.raises(Unavailable):
        lease(side, 0, 1)
    lease(side, 0, None)


def test_the_reaper_keeps_the_limit_while_calls_wait(side: Side) -> None:
    side.registry.set_limits(LIMITS.max_workers, 20.0)
    side.start()
    end(lease(side, 0, 1))
    side.pool.drain("f")
    calls = [gevent.spawn(side.pool.lease, side.request("f", concurrency=1), 20) for _ in range(2)]
    wait_until(lambda: side.registry.snapshot()["waiting"].get("function f") == "2")
    side.registry.reap()

    for _ in range(3):
        side.start()
    wait_until(lambda: any(call.ready() for call in calls))

    assert side.registry.snapshot()["concurrency"]["version f:0"] == "1"


def test_the_reaper_forgets_the_limit_of_a_function_that_is_not_called(side: Side, workers: list[str]) -> None:
    end(lease(side, 0, 1))
    wait_until(lambda: side.registry.snapshot()["concurrency"]["version f:0"] == "0")

    side.registry.reap()

    assert not [name for name in side.registry.snapshot()["concurrency"] if "f:0" in name]
