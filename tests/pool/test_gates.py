"""Calls whose package can't be loaded yet wait in the queue for a worker that holds their target."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease
from qinling_falcon.pool.waiter import Gate
from tests.pool.side import Side, wait_until


@pytest.fixture
def sides(connection: PipelinedConnection) -> Iterator[tuple[Side, Side]]:
    """Two processes that lease workers of the runtime `python3`."""
    connection.close()  # the next connection notes which server this is, which was erased
    one = Side(connection.url, holder="web-1")
    other = Side(connection.url, holder="web-2")
    one.registry.set_limits(6, 100)
    one.registry.configure("python3", 2)
    yield one, other
    one.close()
    other.close()


def holder(side: Side) -> Lease:
    """The lease of a worker that holds the target."""
    side.start()
    lease = side.pool.lease(side.request(), 5)
    lease.used()
    return lease


def gated(side: Side, gate: Gate, wait_s: float = 20) -> gevent.Greenlet:
    """A call that waits with this gate, and whose entry is in the queue."""
    before = entries(side)
    call = gevent.spawn(side.pool.lease, side.request(), wait_s, gate)
    wait_until(lambda: entries(side) > before or call.ready())
    return call


def entries(side: Side) -> int:
    return int(side.connection.call("HGET", "qf:{pool}:waiting", "all") or 0)


def escalated(side: Side) -> int:
    return int(side.connection.call("ZCARD", "qf:{pool}:escalated:python3"))


def end(lease: Lease) -> None:
    with lease:
        lease.used()
        lease.released()
        lease.committed()


@pytest.mark.parametrize("process", ["the same", "another"])
def test_a_call_with_a_closed_gate_gets_a_worker_that_is_released(sides: tuple[Side, Side], process: str) -> None:
    one, other = sides
    held = holder(one)
    waiting = gated(one if process == "the same" else other, Gate())

    end(held)

    lease = waiting.get(timeout=10)
    assert (lease.worker.worker_id, lease.worker.needs_load) == (held.worker.worker_id, False)


def test_a_closed_gate_takes_no_warm_worker_and_asks_for_none(sides: tuple[Side, Side]) -> None:
    side, _ = sides
    side.start()
    waiting = gated(side, Gate())

    with pytest.raises(gevent.Timeout):
        waiting.get(timeout=1.5)  # longer than a call with an open gate, and the repetition of what it said, take

    assert escalated(side) == 0
    assert len(side.registry.workers()) == 1
    assert [record.state for record in side.registry.workers().values()] == ["warm"]
    waiting.kill()


@pytest.mark.parametrize("has_holder", [True, False])
def test_a_call_whose_gate_opens_gets_a_warm_worker(sides: tuple[Side, Side], has_holder: bool) -> None:
    side, _ = sides
    if has_holder:
        holder(side)
        side.start()  # the reserve
    gate = Gate()
    waiting = gated(side, gate)
    side.start()

    gate.open()

    assert waiting.get(timeout=10).worker.needs_load


def test_the_wait_begins_when_the_gate_opens(sides: tuple[Side, Side]) -> None:
    side, _ = sides
    gate = Gate()
    waiting = gated(side, gate, wait_s=0.2)
    gevent.sleep(0.5)
    assert not waiting.ready()

    gate.open()

    with pytest.raises(Unavailable, match="No worker was free in time"):
        waiting.get(timeout=10)
    wait_until(lambda: entries(side) == 0)


def test_a_gate_that_fails_ends_the_wait_with_its_reason(sides: tuple[Side, Side]) -> None:
    side, _ = sides
    gate = Gate()
    waiting = gated(side, gate)

    gate.fail(Unavailable("the storage is away"))

    with pytest.raises(Unavailable, match="the storage is away"):
        waiting.get(timeout=10)
    wait_until(lambda: entries(side) == 0)


def test_a_warm_worker_that_another_process_asked_for_goes_there(sides: tuple[Side, Side]) -> None:
    """The older entry has only calls with closed gates: the offer to it passes on, and its calls still get a worker."""
    one, other = sides
    one.start()
    held = other.pool.lease(other.request(), 5)
    closed = gated(one, Gate())
    opened = gevent.spawn(other.pool.lease, other.request(), 20)
    wait_until(lambda: escalated(other) == 1)

    one.start()
    one.start()

    assert opened.get(timeout=10).worker.needs_load
    assert not closed.ready()
    end(held)
    assert not closed.get(timeout=10).worker.needs_load


def test_a_killed_call_leaves_no_entry(sides: tuple[Side, Side]) -> None:
    side, _ = sides
    gate = Gate()
    waiting = gated(side, gate)
    waiting.kill()
    wait_until(lambda: entries(side) == 0)
    gate.open()
    gate.fail(Unavailable("too late"))
    assert not side.pool._local_queues._queues
