"""Asynchronous executions use only their share of the workers; the others are left for calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import pool, waiting
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.registry import Registry
from tests.pool.side import LIMITS, Side, end, lost, reap_until, wait_until

SETTINGS = replace(LIMITS, async_workers=2)
CONCURRENCY = f"{ANCHOR}:concurrency"


@pytest.fixture
def web(connection: PipelinedConnection) -> Iterator[Side]:
    side = Side(connection.url, SETTINGS)
    side.configure()
    for _ in range(6):
        side.start()
    yield side
    side.close()


@pytest.fixture
def drain(web: Side) -> Iterator[Side]:
    side = Side(web.connection.url, SETTINGS, holder="worker:1")
    yield side
    side.close()


@contextmanager
def alone(connection: PipelinedConnection, workers: int, share: int) -> Iterator[Side]:
    """The only process with leases, in a pool of so many warm workers, of which executions may have a share."""
    side = Side(connection.url, replace(SETTINGS, async_workers=share, max_workers=max(6, workers)), holder="worker:1")
    try:
        side.configure()
        for _ in range(workers):
            side.start()
        yield side
    finally:
        side.close()


def asynchronous(side: Side) -> int:
    return int(side.registry.snapshot()["concurrency"].get("asynchronous", 0))


def end_all(leases: list[Lease], callers: list[gevent.Greenlet]) -> None:
    gevent.killall([caller for caller in callers if not caller.ready()])
    for lease in [*leases, *(caller.value for caller in callers)]:
        if isinstance(lease, Lease):
            end(lease)


def test_executions_beyond_the_share_wait_until_one_has_ended(web: Side, drain: Side) -> None:
    first, second = drain.lease("f"), drain.lease("g", project="q")
    third = gevent.spawn(drain.lease, "h", 20, project="r")
    gevent.sleep(0.1)
    assert not third.ready()
    assert asynchronous(web) == 2

    end(web.lease("h", project="r"))  # a call gets a worker all the same
    end(first)

    end(third.get(timeout=10))
    end(second)
    wait_until(lambda: asynchronous(web) == 0)


def test_an_execution_that_waits_for_too_long_is_not_run(web: Side, drain: Side) -> None:
    leases = [drain.lease("f"), drain.lease("g", project="q")]
    with pytest.raises(Unavailable):
        drain.lease("h", 0.2, project="r")
    for lease in leases:
        end(lease)
    drain.run("h", project="r")


def test_the_executions_of_one_function_share_the_workers_that_they_have(web: Side, drain: Side) -> None:
    leases = [drain.lease("f"), drain.lease("g", project="q")]
    waiting = [gevent.spawn(drain.run, "f", 20) for _ in range(5)]
    gevent.sleep(0.05)
    for lease in leases:
        end(lease)
    for caller in waiting:
        caller.get(timeout=10)
    wait_until(lambda: asynchronous(web) == 0)


def test_a_large_backlog_of_a_quick_function_gets_one_more_worker_without_its_grace(
    connection: PipelinedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ASYNC_GRACE_S", 30)
    with alone(connection, workers=3, share=5) as drain:
        for _ in range(2):  # the first time includes the import
            end(drain.lease("f"), busy_s=0.0005)
        leases = [drain.lease("f")]
        callers = [gevent.spawn(drain.lease, "f", 60) for _ in range(20)]
        gevent.sleep(0.1)
        assert not any(caller.ready() for caller in callers), "a small backlog uses one worker"

        callers += [gevent.spawn(drain.lease, "f", 60) for _ in range(20)]
        wait_until(lambda: any(caller.ready() for caller in callers), timeout_s=10)
        assert asynchronous(drain) == 2
        end_all(leases, callers)


def test_a_project_and_a_function_leave_workers_for_others(connection: PipelinedConnection) -> None:
    with alone(connection, workers=8, share=6) as drain:
        callers = [gevent.spawn(drain.lease, "f", 60) for _ in range(6)]
        gevent.sleep(0.5)
        assert 1 <= sum(caller.ready() for caller in callers) <= 3

        end(drain.lease("g"))  # of the same project
        end(drain.lease("h", project="q"))
        end_all([], callers)


def test_a_project_with_several_leases_gives_one_back_when_none_is_free(connection: PipelinedConnection) -> None:
    with alone(connection, workers=8, share=4) as drain:
        leases = [drain.lease("f"), drain.lease("f"), drain.lease("g")]
        leases.append(drain.lease("h", project="q"))
        assert asynchronous(drain) == 4
        waits = gevent.spawn(drain.lease, "i", 60, project="r")
        next_one = gevent.spawn(drain.lease, "f", 60)
        gevent.sleep(0.1)

        end(leases.pop(0))

        leases.append(waits.get(timeout=10))
        assert not next_one.ready(), "the worker of `f` was not handed over"
        end_all(leases, [next_one])


def test_a_first_large_batch_gets_the_worker_of_another_process_as_soon_as_it_is_free(
    web: Side, drain: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "_REPEAT_S", 1000)  # entries that are wrong are not repaired
    held = web.lease("f")
    callers = [gevent.spawn(drain.lease, "f", 60) for _ in range(60)]
    gevent.sleep(0.2)
    end(held)
    wait_until(lambda: any(caller.ready() for caller in callers), timeout_s=10)
    end_all([], callers)


def test_a_lost_reply_does_not_make_the_next_run_of_the_execution_a_lost_one(web: Side) -> None:
    drain = web
    unknown = drain.lease("f", execution_id="x")
    drain.pool._local_queues.held.discard(unknown.worker.name)  # as if the reply had not come
    with drain.lease("f", execution_id="x") as lease:
        assert lease.worker.worker_id != unknown.worker.worker_id
        lease.used()
        reap_until(web, lambda: unknown.worker.worker_id not in web.leased())
        assert lost(web) == {}
        lease.released()
        lease.committed()


def test_the_share_of_all_processes_is_counted_together(web: Side, drain: Side) -> None:
    other = Side(web.connection.url, SETTINGS, holder="worker:2")
    try:
        leases = [drain.lease("f"), other.lease("g", project="q")]
        with pytest.raises(Unavailable):
            other.lease("h", 0.2, project="r")
        waiting = gevent.spawn(other.lease, "h", 20, project="r")
        end(leases[0])
        end(waiting.get(timeout=10))  # it asks again by itself, because the other process does not tell it
        end(leases[1])
    finally:
        other.close()


def test_a_lowered_limit_ends_the_lease_of_the_next_execution(web: Side, drain: Side) -> None:
    leases = [drain.lease("f"), drain.lease("g", project="q")]
    web.registry.close()
    lowered = Side(web.connection.url, replace(SETTINGS, async_workers=1))
    try:
        lowered.configure()
        caller = gevent.spawn(drain.run, "f", 20)
        gevent.sleep(0.05)
        end(leases[0])
        end(leases[1])
        caller.get(timeout=10)
        wait_until(lambda: asynchronous(web) == 0)
    finally:
        lowered.close()


def test_wrong_counts_of_leases_are_corrected_by_a_new_manager_and_once_a_minute(
    web: Side, drain: Side, connection: PipelinedConnection
) -> None:
    """As a process of a release leaves them that does not count the leases of asynchronous executions."""
    leases = [drain.lease("f", run_s=600), web.lease("f", run_s=600), web.lease("g", run_s=600)]
    later_s = [0.0]
    registry = Registry(
        connection, SETTINGS,
        clock=lambda: int((time.time() + later_s[0]) * 1000), monotonic=lambda: time.monotonic() + later_s[0],
    )  # fmt: skip

    def counts() -> dict[str, str]:
        counted = ("version ", "function ", "project ", "runtime ", "asynchronous")
        return {name: of for name, of in registry.snapshot()["concurrency"].items() if name.startswith(counted)}

    right = counts()
    assert (right["asynchronous"], right["function f"]) == ("1", "2")
    wrong = {"asynchronous": 7, "function f": -1, "function h": 3, "project p": 0}
    for later_s[0] in (0.0, 61.0):
        for name, count in wrong.items():
            connection.call("HSET", CONCURRENCY, name, count)
        connection.call("HDEL", CONCURRENCY, "runtime python3")
        registry.reap()
        assert counts() | {"function h": "0"} == right | {"function h": "0"}
    connection.call("HSET", CONCURRENCY, "asynchronous", 7)
    registry.reap()
    assert asynchronous(web) == 7, "a pass costs little, so it does not count each time"
    registry.close()
    for lease in leases:
        end(lease)


def test_the_lease_of_a_killed_process_is_counted_until_it_is_reaped(web: Side, drain: Side) -> None:
    drain.lease("f")
    drain.pool.close()
    assert asynchronous(web) == 1

    def reaped() -> bool:
        web.registry.reap()
        return asynchronous(web) == 0

    wait_until(reaped)


def test_executions_of_one_function_share_a_worker_while_it_is_quick(
    web: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinling_falcon.pool.pool._ASYNC_GRACE_S", 60.0)
    drain = Side(web.connection.url, SETTINGS, holder="worker:1")
    load = {"kind": "warm", "detail": ""}
    for loaded in [web.lease("f", **load), web.lease("f", **load)]:
        end(loaded)
    lease = drain.lease("f")
    waiting = [gevent.spawn(drain.lease, "f") for _ in range(5)]
    for other in waiting:
        gevent.sleep(0.01)
        assert asynchronous(web) == 1, "although another worker holds the function and is idle"
        end(lease)
        lease = other.get(timeout=10)
    end(lease)
    drain.close()


def test_executions_that_wait_for_one_that_gets_no_share_wait_for_the_share_too(web: Side, drain: Side) -> None:
    leases = [drain.lease("f"), drain.lease("g", project="q")]
    waiting = [gevent.spawn(drain.run, "h", 20) for _ in range(5)]
    gevent.sleep(0.2)
    assert web.all_waiting() == 0, "they are in no queue of Redis"
    for lease in leases:
        end(lease)
    for caller in waiting:
        caller.get(timeout=10)
