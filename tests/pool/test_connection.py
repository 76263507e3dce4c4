from __future__ import annotations

import logging
import random
import re
from collections.abc import Iterator

import gevent
import pytest
import redis

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.wire import PoolUnavailable, ReplyLost
from tests.servers.valkey import ValkeyServer, valkey_server

NOW = ("",)


def test_every_greenlet_gets_its_own_reply(connection: PipelinedConnection) -> None:
    def echo(number: int) -> None:
        for turn in range(50):
            assert connection.call("ECHO", f"{number}-{turn}") == f"{number}-{turn}".encode()

    gevent.joinall([gevent.spawn(echo, number) for number in range(40)], raise_error=True)


def test_killed_greenlets_do_not_shift_the_replies_of_others(connection: PipelinedConnection) -> None:
    chance = random.Random(1)
    wrong = []

    def echo(number: int) -> None:
        for turn in range(200):
            word = f"{number}-{turn}".encode()
            if connection.call("ECHO", word) != word:
                wrong.append(word)

    victims = [gevent.spawn(echo, number) for number in range(60)]
    survivors = [gevent.spawn(echo, number) for number in range(100, 110)]
    while victims:
        gevent.sleep(0)
        victim = victims.pop(chance.randrange(len(victims)))
        if chance.random() < 0.5:
            victim.kill(block=False)
        else:
            victim.kill(gevent.Timeout, block=False)
    gevent.joinall(survivors, raise_error=True)
    assert not wrong


def test_the_reply_of_a_killed_greenlet_is_handed_on(connection: PipelinedConnection) -> None:
    abandoned = gevent.event.AsyncResult()
    caller = gevent.spawn(connection.call, "BLPOP", "list", 5, abandoned=abandoned.set)
    with PipelinedConnectionTo(connection.url) as other:
        wait_until(lambda: b"cmd=blpop" in other.call("CLIENT", "LIST"))
        caller.kill()
        other.call("RPUSH", "list", "word")
    assert abandoned.get(timeout=5) == [b"list", b"word"]


def test_a_script_that_the_server_has_forgotten_is_run(connection: PipelinedConnection) -> None:
    connection.call("FUNCTION", "FLUSH")
    connection.run("configure", (*NOW, "runtime", 3))
    assert connection.call("HGET", "qf:{pool}:runtimes", "runtime") == b"3"


def test_greenlets_whose_scripts_the_server_has_forgotten_all_get_their_replies(
    connection: PipelinedConnection,
) -> None:
    """The first one loads the library. The server refuses it to the others, because it is there already."""
    connection.call("FUNCTION", "FLUSH")
    callers = [gevent.spawn(connection.run, "claim", (*NOW, "me", 1000)) for _ in range(20)]
    gevent.joinall(callers, raise_error=True)
    assert [caller.value for caller in callers] == [b"me"] * 20


def test_a_new_connection_loads_the_scripts_so_that_one_without_waiting_is_run(server: ValkeyServer) -> None:
    with PipelinedConnectionTo(server.url) as other:
        other.call("FLUSHALL")
        other.call("FUNCTION", "FLUSH")
    with PipelinedConnectionTo(server.url) as connection:
        connection.call("PING")
        assert connection.cast("configure", (*NOW, "runtime", 3))
        assert connection.call("HGET", "qf:{pool}:runtimes", "runtime") == b"3"


def test_a_new_connection_sends_the_library_only_to_a_server_that_does_not_have_it(
    connection: PipelinedConnection,
) -> None:
    def loads() -> int:
        stats = connection.call("INFO", "commandstats")
        return sum(int(count) for count in re.findall(rb"cmdstat_function\|load:calls=(\d+)", stats))

    connection.call("FUNCTION", "FLUSH")
    before = loads()
    for _ in range(3):
        with PipelinedConnectionTo(connection.url) as other:
            other.call("PING")
    assert loads() == before + 1


def test_connections_that_find_the_server_without_the_library_at_once_all_load_it(server: ValkeyServer) -> None:
    with PipelinedConnectionTo(server.url) as other:
        other.call("FUNCTION", "FLUSH")
    connections = [PipelinedConnection(server.url) for _ in range(5)]
    pings = [gevent.spawn(connection.call, "PING") for connection in connections]
    gevent.joinall(pings, raise_error=True)
    for connection in connections:
        assert connection.cast("configure", (*NOW, "runtime", 3))
        connection.close()


def test_a_script_without_waiting_that_the_server_does_not_know_is_not_sent_again(
    connection: PipelinedConnection,
) -> None:
    """Commands that were sent behind it may rely on their order. The next connection knows the script."""
    connection.call("FUNCTION", "FLUSH")
    answers: list[object] = []
    assert connection.cast("configure", (*NOW, "runtime", 3), answers.append)
    wait_until(lambda: len(answers) == 1)
    assert isinstance(answers[0], PoolUnavailable)
    assert connection.call("HGET", "qf:{pool}:runtimes", "runtime") is None
    assert connection.cast("configure", (*NOW, "runtime", 3))
    assert connection.call("HGET", "qf:{pool}:runtimes", "runtime") == b"3"


def test_a_restarted_server_that_has_lost_the_library_gets_it_again() -> None:
    with valkey_server() as server, PipelinedConnectionTo(server.url) as connection:
        connection.call("PING")
        server.kill()
        with pytest.raises(PoolUnavailable):
            connection.run("claim", (*NOW, "me", 1000))
        server.start()
        assert connection.run("claim", (*NOW, "me", 1000)) == b"me"


def test_a_script_that_fails_is_named_in_its_error(connection: PipelinedConnection) -> None:
    connection.call("SET", "qf:{pool}:runtimes", "a text")
    with pytest.raises(redis.ResponseError, match=r"The script configure failed: WRONGTYPE"):
        connection.run("configure", (*NOW, "runtime", 3))


@pytest.fixture
def full(connection: PipelinedConnection) -> Iterator[PipelinedConnection]:
    """A connection to a Valkey that has reached its `maxmemory`."""
    connection.call("CONFIG", "SET", "maxmemory", 1)
    yield connection
    connection.call("CONFIG", "SET", "maxmemory", 0)


def test_scripts_run_when_the_server_is_full(full: PipelinedConnection) -> None:
    """Otherwise no lease could end, and nothing would leave the journals."""
    with pytest.raises(PoolUnavailable, match="OOM"):
        full.call("SET", "a", "b")
    full.run("configure", (*NOW, "runtime", 3))
    assert full.run("capacity", (*NOW, "runtime")) == [0, 0]


@pytest.fixture
def replica(connection: PipelinedConnection) -> Iterator[PipelinedConnection]:
    """A connection to a Valkey that was demoted to a replica."""
    connection.call("PING")
    connection.call("REPLICAOF", "127.0.0.1", 1)
    yield connection
    connection.call("REPLICAOF", "NO", "ONE")


def test_a_server_that_was_demoted_is_away(replica: PipelinedConnection) -> None:
    with pytest.raises(PoolUnavailable, match="READONLY"):
        replica.run("configure", (*NOW, "runtime", 3))


def test_nothing_is_sent_without_waiting_where_there_is_no_connection(connection: PipelinedConnection) -> None:
    connection.close()
    assert not connection.cast("configure", (*NOW, "runtime", 3))


def test_an_error_reply_is_raised_to_its_caller_alone(connection: PipelinedConnection) -> None:
    connection.call("SET", "text", "a")
    wrong = gevent.spawn(connection.call, "LPUSH", "text", "b")
    right = gevent.spawn(connection.call, "GET", "text")
    assert right.get() == b"a"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        wrong.get()


def test_a_server_that_does_not_answer_is_unavailable_and_then_found_again(connection: PipelinedConnection) -> None:
    with PipelinedConnectionTo(connection.url) as other:
        other.call("CLIENT", "PAUSE", 60_000, "WRITE")
        with pytest.raises(PoolUnavailable, match="in time"):
            connection.call("SET", "a", "b", timeout_s=0.2)
        other.call("CLIENT", "UNPAUSE")
    assert connection.call("PING") == b"PONG"


def test_all_that_wait_fail_when_the_server_dies_and_the_next_call_reconnects() -> None:
    with valkey_server() as server:
        connection = PipelinedConnection(server.url)
        connection.call("PING")
        waiting = [gevent.spawn(connection.call, "BLPOP", "list", 0, timeout_s=30) for _ in range(3)]
        gevent.sleep(0)
        server.kill()
        gevent.joinall(waiting, timeout=10)
        assert [type(one.exception) for one in waiting] == [ReplyLost] * 3
        with pytest.raises(Unavailable):
            connection.call("PING")
        server.start()
        assert connection.call("PING") == b"PONG"
        connection.close()


def test_what_was_sent_is_not_sent_again(server: ValkeyServer, connection: PipelinedConnection) -> None:
    with PipelinedConnectionTo(connection.url) as other:
        name = connection.call("CLIENT", "ID")
        caller = gevent.spawn(connection.call, "EVAL", "redis.call('INCR', KEYS[1]) return 1", 1, "counter")
        other.call("CLIENT", "KILL", "ID", name)
        caller.join(timeout=5)
        runs = int(other.call("GET", "counter") or 0)
        assert runs == 1 if caller.successful() else runs <= 1
        assert connection.call("PING") == b"PONG"


def test_many_greenlets_share_one_connection(connection: PipelinedConnection) -> None:
    connection.close()
    names = [gevent.spawn(connection.call, "CLIENT", "ID") for _ in range(20)]
    gevent.joinall(names, raise_error=True)
    assert len({name.value for name in names}) == 1


# redis-py's pool makes 100 connections in all, unless it is told otherwise.
MORE_THAN_A_POOL_MAKES = 300


def test_it_connects_again_and_again(server: ValkeyServer) -> None:
    connection = PipelinedConnection(server.url)
    with PipelinedConnectionTo(server.url) as other:
        before = len(other.call("CLIENT", "LIST").splitlines())  # other tests leave some
        for _ in range(MORE_THAN_A_POOL_MAKES):
            name = connection.call("CLIENT", "ID")
            other.call("CLIENT", "KILL", "ID", name)
            wait_until(lambda name=name: _new_id(connection, name))
        wait_until(lambda: len(other.call("CLIENT", "LIST").splitlines()) <= before + 1)  # those that broke are gone
    connection.close()


def _new_id(connection: PipelinedConnection, before: bytes) -> bool:
    try:
        return bool(connection.call("CLIENT", "ID") != before)
    except PoolUnavailable:  # the call went out before the end of the old connection was seen
        return False


def test_a_server_that_was_away_for_minutes_is_found_again_and_was_not_stormed(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    attempts = []
    connect = redis.UnixDomainSocketConnection.connect
    monkeypatch.setattr(
        redis.UnixDomainSocketConnection, "connect", lambda self: (attempts.append(now[0]), connect(self))
    )
    with valkey_server() as server, caplog.at_level(logging.INFO, "qinling_falcon.pool.connection"):
        connection = PipelinedConnection(server.url, clock=lambda: now[0])
        server.kill()
        while now[0] < 600:
            with pytest.raises(PoolUnavailable, match="can't be reached"):
                connection.call("PING")
            now[0] += 0.02  # 50 calls a second, for ten minutes
        assert 3 * MORE_THAN_A_POOL_MAKES < len(attempts) < 1300, "about two attempts a second"
        server.start()
        now[0] += 0.5
        assert connection.call("PING") == b"PONG"
        connection.close()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert 10 <= len(warnings) <= 12, "one line a minute"
    assert caplog.records[-1].getMessage() == "Redis is reachable again"


def test_a_first_failure_does_not_delay_the_next_attempt() -> None:
    with valkey_server() as server:
        connection = PipelinedConnection(server.url, clock=lambda: 0.0)
        server.kill()
        with pytest.raises(PoolUnavailable):
            connection.call("PING")
        server.start()
        assert connection.call("PING") == b"PONG"
        connection.close()


def test_an_attempt_that_fails_unforeseen_leaves_no_caller_waiting(
    server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = PipelinedConnection(server.url)
    with monkeypatch.context() as patched:
        patched.setattr(redis.UnixDomainSocketConnection, "connect", lambda self: {}["unforeseen"])
        callers = [gevent.spawn(connection.call, "PING") for _ in range(3)]
        gevent.joinall(callers, timeout=10)
        assert [type(caller.exception) for caller in callers] == [PoolUnavailable] * 3
    assert connection.call("PING") == b"PONG"
    connection.close()


class PipelinedConnectionTo:
    """A second connection for the time of a test."""

    def __init__(self, url: str):
        self._connection = PipelinedConnection(url)

    def __enter__(self) -> PipelinedConnection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def wait_until(condition: object, timeout_s: float = 10) -> None:
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.005)
