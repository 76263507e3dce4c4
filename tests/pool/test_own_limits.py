"""The `concurrency` of a function and of a version: how many leases each may have at once."""

from __future__ import annotations

import contextlib
import json

import gevent
import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.leases import Lease, StaleTarget
from qinling_falcon.pool.runner import ScriptRunner
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


def test_a_new_limit_applies_while_a_process_renews_its_leases(side: Side, workers: list[str]) -> None:
    """Four callers in a closed loop: their calls get spare workers by renewals alone, so none asks Redis."""
    limits: list[int | None] = [None]
    running = most = ended = 0

    def call_again_and_again() -> None:
        nonlocal running, most, ended
        while True:
            with contextlib.suppress(StaleTarget), side.lease(concurrency=limits[0]) as lease:
                running += 1
                most = max(most, running)
                gevent.sleep(0.01)
                running -= 1
                ended += 1
                end(lease)

    def run_more(calls: int) -> None:
        target = ended + calls
        wait_until(lambda: ended >= target)

    held = [lease(side) for _ in range(4)]
    for one in held:
        end(one)
    callers = [gevent.spawn(call_again_and_again) for _ in range(4)]
    run_more(40)
    assert most == 4

    with side.pool.changing("function:f"):
        limits[0] = 1
    run_more(8)  # calls of before the change may still run
    most = 0
    run_more(20)
    assert most == 1

    with side.pool.changing("function:f"):
        limits[0] = None
    side.registry.view()
    run_more(40)
    assert most > 1
    gevent.killall(callers)


def test_an_offer_is_not_accepted_beyond_a_new_limit(side: Side) -> None:
    """The offer is to a process that only runs scripts, so that the limit can be lowered before its answer."""
    side.registry.set_limits(LIMITS.max_workers, 20.0)
    for _ in range(3):
        side.start()
    leases = [side.lease(), lease(side)]
    request = side.request()
    [(key, generation)] = request.generations
    scripts = ScriptRunner(side.connection)
    asked = scripts.run(
        "lease", "web-3", "any", "python3", request.target, "p", "", "e", 1000, "detail", 1, 0, "", key, generation
    )  # fmt: skip
    assert asked[0] == b"queued"
    end(leases[0])
    _queue, word, worker, _, _, token, *_ = json.loads(side.connection.call("LPOP", keys.grants("web-3")))
    assert word == "lease"

    answer = scripts.run("renew", worker, token, "web-3", "e", 1000, "detail", 0, "", "", 0, 1, "", key, generation)

    assert answer == [b"ended"]
    assert side.leased() == {leases[1].worker.worker_id}


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
