"""Processes whose requests wait for the end of an execution are notified, also after Redis has lost everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import gevent
import pytest

from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.pool.watches import Watch
from tests.pool.side import LIMITS, Side, end, wait_until
from tests.pool.test_costs import Commands
from tests.servers.valkey import ValkeyServer, valkey_server

LONG_S = 60.0
# Its heartbeats are so rare that they don't hide a message that is missing.
QUIET = replace(LIMITS, holder_ttl_s=3600.0)


@pytest.fixture
def quiet(side: Side) -> Iterator[Side]:
    """Another process."""
    quiet = Side(side.connection.url, QUIET, holder="worker-1")
    yield quiet
    quiet.close()


@pytest.fixture
def lone_server() -> Iterator[ValkeyServer]:
    """A Valkey that a test may kill. It stores nothing."""
    with valkey_server() as server:
        yield server


def watched(side: Side) -> set[str]:
    return {execution.decode() for execution in side.connection.call("ZRANGE", f"{ANCHOR}:watched", 0, -1)}


def watchers(side: Side, execution: str) -> set[str]:
    return {holder.decode() for holder in side.connection.call("SMEMBERS", f"{ANCHOR}:watchers:{execution}")}


def woken(watch: Watch) -> bool:
    """Wait until the watch is woken; False: it was not."""
    waiting = gevent.spawn(watch.wait, LONG_S)
    waiting.join(LONG_S / 2)
    return bool(waiting.ready())


def test_an_end_in_a_quiet_process_wakes_waits_of_another_process(side: Side, quiet: Side) -> None:
    side.start()
    lease = quiet.lease()
    with side.pool.watches.open(lease.execution_id) as watch:
        watch.register()
        assert watchers(side, lease.execution_id) == {"web-1"}

        end(lease)

        assert woken(watch)
    assert watched(side) == set()
    assert quiet.registry.snapshot().get("journal:worker-1", {}) == {}


def test_an_end_that_is_reported_without_a_lease_wakes_too(side: Side, quiet: Side) -> None:
    with side.pool.watches.open("e") as watch, side.pool.watches.open("other") as other:
        watch.register()
        other.register()

        quiet.pool.ended.notify([f"unknown {number}" for number in range(1200)] + ["e"])

        assert woken(watch)
        assert watched(side) == {"other"}


def test_an_end_wakes_all_requests_of_all_processes(side: Side, other: Side, quiet: Side) -> None:
    with (
        side.pool.watches.open("e") as first,
        side.pool.watches.open("e") as second,
        other.pool.watches.open("e") as third,
    ):
        for watch in (first, second, third):
            watch.register()
        assert watchers(side, "e") == {"web-1", "web-2"}

        quiet.pool.ended.notify(["e"])

        assert woken(first) and woken(second) and woken(third)


def test_many_requests_that_begin_at_once_share_one_registration(side: Side, quiet: Side) -> None:
    def wait_once() -> None:
        with quiet.pool.watches.open("e") as watch:
            watch.register()
            started.add(watch)
            watch.wait(LONG_S)

    started: set[Watch] = set()
    side.connection.call("CONFIG", "RESETSTAT")
    requests = [gevent.spawn(wait_once) for _ in range(300)]
    wait_until(lambda: len(started) == 300)
    assert b"cmdstat_pexpire:calls=2," in side.connection.call("INFO", "commandstats")  # as one registration costs
    assert watchers(side, "e") == {"worker-1"}

    side.pool.ended.notify(["e"])

    gevent.joinall(requests, timeout=LONG_S / 2, raise_error=True)
    assert all(request.ready() for request in requests)
    assert quiet.pool.watches.ids() == []


def test_an_execution_that_goes_on_is_registered_again(side: Side, quiet: Side) -> None:
    """Its attempt has failed, and another one starts."""
    with side.pool.watches.open("e") as watch:
        for _ in range(3):
            watch.register()
            assert watched(side) == {"e"}
            quiet.pool.ended.notify(["e"])
            assert woken(watch)


def test_the_last_request_that_leaves_ends_the_registration_of_its_process_alone(side: Side, other: Side) -> None:
    with other.pool.watches.open("e") as theirs:
        theirs.register()
        with side.pool.watches.open("e") as first:
            first.register()
            with side.pool.watches.open("e") as second:
                second.register()
            side.sync()
            assert watchers(side, "e") == {"web-1", "web-2"}
        side.sync()
        assert (watchers(side, "e"), watched(side)) == ({"web-2"}, {"e"})
    other.sync()
    assert (watchers(side, "e"), watched(side)) == (set(), set())


def test_the_registrations_of_a_process_that_dies_expire(side: Side) -> None:
    dead = Side(side.connection.url, holder="dead")
    with dead.pool.watches.open("e") as watch:
        watch.register()
        for key in (f"{ANCHOR}:watched", f"{ANCHOR}:watchers:e"):
            assert 0 < side.connection.call("PTTL", key) <= 30_000
    dead.close()


def test_a_registration_that_has_expired_is_removed_by_the_next_one(side: Side) -> None:
    side.connection.call("ZADD", f"{ANCHOR}:watched", 1, "long ago")
    with side.pool.watches.open("e") as watch:
        watch.register()
        assert watched(side) == {"e"}


def test_registrations_are_repeated_after_redis_was_emptied(side: Side, quiet: Side) -> None:
    with side.pool.watches.open("e") as watch, side.pool.watches.open("f") as other:
        watch.register()
        other.register()
        side.pool.watches.doubted.clear()

        side.connection.call("FLUSHALL")

        assert side.pool.watches.doubted.wait(LONG_S)
        assert watched(side) == {"e", "f"}
        quiet.pool.ended.notify(["e"])
        assert woken(watch)


def test_registrations_are_repeated_after_redis_was_started_anew(lone_server: ValkeyServer) -> None:
    side, quiet = Side(lone_server.url), Side(lone_server.url, QUIET, holder="worker-1")
    with side.pool.watches.open("e") as watch:
        watch.register()
        side.pool.watches.doubted.clear()

        lone_server.kill()
        quiet.pool.ended.notify(["e"])  # lost: its process sends it with a heartbeat
        gevent.sleep(0)
        lone_server.start()

        assert side.pool.watches.doubted.wait(LONG_S)
        quiet.pool._beat()
        assert woken(watch)
    side.close()
    quiet.close()


def test_a_request_need_not_wait_for_a_redis_that_is_away(lone_server: ValkeyServer) -> None:
    side = Side(lone_server.url)
    lone_server.kill()
    with side.pool.watches.open("e") as watch, side.pool.watches.open("e") as second:
        registering = [gevent.spawn(one.register) for one in (watch, second)]
        gevent.joinall(registering, timeout=LONG_S / 2, raise_error=True)
        assert all(one.ready() for one in registering)

        lone_server.start()

        assert side.pool.watches.doubted.wait(LONG_S)
        assert watchers(side, "e") == {"web-1"}
    side.close()


def test_a_request_that_is_killed_while_it_registers_leaves_nothing(side: Side) -> None:
    def wait_once() -> None:
        with side.pool.watches.open("e") as watch:
            watch.register()

    request = gevent.spawn(wait_once)
    gevent.sleep(0)
    request.kill()

    side.sync()
    assert side.pool.watches.ids() == []
    wait_until(lambda: watched(side) == set())


def test_ends_for_which_no_request_waits_cost_one_command_for_all_of_them(side: Side) -> None:
    commands = Commands(side.connection)
    for count in (1, 3, 300):
        ids = ",".join(str(number) for number in range(count))
        commands.run(f"{count} ends", "acknowledge", "nobody", ids)
    assert set(commands.costs.values()) == {2}  # and one that removes them from the journal


def test_an_execution_that_was_cancelled_stays_in_the_journal_until_its_run_is_over(side: Side) -> None:
    """The request that has cancelled it may be of the process that runs it. A deletion waits for the journal."""
    side.start()
    side.start()
    lease = side.lease("f")

    side.pool.ended.notify((lease.execution_id,))
    end(side.lease("g"))  # with this script, Redis gets the ends before it

    assert side.pool.find(lease.execution_id) is not None
    end(lease)
    wait_until(lambda: side.pool.find(lease.execution_id) is None)
