"""The process's one connection to Redis, shared by all its greenlets."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import hiredis
import redis
from gevent.event import AsyncResult
from redis.backoff import NoBackoff
from redis.retry import Retry

from qinling_falcon.pool.lua import ANCHOR, Script, all_scripts, load
from qinling_falcon.pool.wire import Abandoned, PoolUnavailable, Wire

logger = logging.getLogger(__name__)

Argument = str | int | float | bytes

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
# Interval in seconds between log lines during a long outage.
_LOG_EVERY_S = 60.0

# The errors of a Redis that can't serve now. It has not run the command.
_AWAY = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS")
# The message for callers. It does not name the address of Redis; the log does.
_UNREACHABLE = "Redis can't be reached"


class PipelinedConnection:
    """Sends the commands of all greenlets over one connection, several in one write.

    It connects at the first call, and again at the first call after the connection broke. A command that was sent is
    never sent again, because Redis may have executed it. Make one instance per process, after forks. A blocking command
    needs its own connection.

    While Redis is away, all callers share one connection attempt. From the second failure in a row on, there is a pause
    before the next attempt (50 ms, doubled up to 500 ms). Calls during a pause fail at once.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py reads it.
        timeout_s: longest wait for a reply, and for connecting.
        clock: seconds, for the pauses; tests pass their own.
    """

    def __init__(self, url: str, *, timeout_s: float = 3.0, clock: Callable[[], float] = time.monotonic):
        self.url = url
        self.timeout_s = timeout_s
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self._log_at = 0.0
        self._wire: Wire | None = None
        self._connecting: AsyncResult | None = None
        self._note_server_script = load("note_server")
        # redis-py's pool is only used to parse the URL. Its `make_connection` counts all connections that it has ever
        # made, never decrements the count, and fails at the 101st.
        self._options: Any = redis.ConnectionPool.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def call(
        self, *args: Argument, timeout_s: float | None = None, abandoned: Abandoned | None = None
    ) -> Any:
        """Carry out one command and return its reply as hiredis parses it (bytes, int, list, None).

        Args:
            args: the command's name and arguments.
            timeout_s: instead of the connection's own.
            abandoned: gets the reply if this greenlet is killed or runs out of time while it waits; must not block.

        Raises:
            PoolUnavailable: Redis is away, or did not answer in time.
            redis.ResponseError: Redis refused the command.
        """
        return _checked(self._send(_packed(args), timeout_s, abandoned))

    def run(
        self, script: Script, args: Sequence[Argument], *, abandoned: Abandoned | None = None
    ) -> Any:
        """Run a script. If Redis does not know it, load it first. Raises as `call` does."""
        command = _packed(("EVALSHA", script.sha, 1, ANCHOR, *args))
        reply = self._send(command, None, abandoned)
        if _unknown_script(reply):  # so the script has not run
            self.call("SCRIPT", "LOAD", script.source)
            reply = self._send(command, None, abandoned)
        return _checked(reply)

    def cast(self, script: Script, args: Sequence[Argument], answered: Abandoned | None = None) -> bool:
        """Send a script without waiting for its reply.

        A script that Redis does not know is not sent again: commands that were sent after it may rely on their order.
        The connection is closed instead, because each new one loads all scripts.

        Args:
            script: what to run.
            args: its arguments.
            answered: gets the reply, or the `PoolUnavailable` with which the connection broke, in the reader's
                greenlet; must not block nor raise.

        Returns:
            False: there is no connection now. The script was not sent, and `answered` is not called.
        """
        wire = self._wire
        if wire is None or wire.broken:
            return False

        def finish(reply: Any) -> None:
            if _unknown_script(reply):
                gevent.spawn(wire.end, "Redis has forgotten the scripts")
            if isinstance(reply, hiredis.ReplyError):
                logger.error("a script failed", extra={"script": script.name, "reason": str(reply)})
                reply = PoolUnavailable(f"Redis refused the script {script.name}")
            if answered is not None:
                answered(reply)

        wire.cast(_packed(("EVALSHA", script.sha, 1, ANCHOR, *args)), self.timeout_s, finish)
        return True

    def another(self) -> PipelinedConnection:
        """Make another connection to the same server, for blocking commands."""
        return PipelinedConnection(self.url, timeout_s=self.timeout_s, clock=self._clock)

    def close(self) -> None:
        """Fail all calls that wait, and close the connection. A later call connects again."""
        if self._wire is not None:
            self._wire.end("The connection to Redis was closed")
            self._wire = None

    def _send(self, command: bytes, timeout_s: float | None, abandoned: Abandoned | None) -> Any:
        wire = self._wire
        if wire is None or wire.broken:
            wire = self._connected()
        return wire.call(command, timeout_s or self.timeout_s, abandoned)

    def _connected(self) -> Wire:
        """The open connection. If there is none, all greenlets that need one share a connection attempt.

        Raises:
            PoolUnavailable: Redis can't be reached, or the last attempt has just failed.
        """
        attempt = self._connecting
        if attempt is None:
            if self._clock() < self._retry_at:
                raise PoolUnavailable(_UNREACHABLE)
            attempt = self._connecting = AsyncResult()
            gevent.spawn(self._connect, attempt)
        wire: Wire = attempt.get()
        return wire

    def _connect(self, attempt: AsyncResult) -> None:
        connection: Any = None
        try:
            # Each step has its own timeout. This one bounds their sum, for a server that answers each step slowly.
            with gevent.Timeout(2 * self.timeout_s, TimeoutError("no answer in time")):
                connection = self._options.connection_class(**self._options.connection_kwargs)
                connection.connect()
                self._note_server(connection)
            self._wire = Wire(connection)
        except Exception as error:  # of any type, because greenlets wait for the end of this attempt
            if connection is not None:
                connection.disconnect()
            self._note_failure(error)
            attempt.set_exception(PoolUnavailable(_UNREACHABLE))
        else:
            if self._failures:
                logger.info("Redis is reachable again", extra={"failed_attempts": self._failures})
            self._failures, self._log_at = 0, 0.0
            attempt.set(self._wire)
        finally:
            self._connecting = None

    def _note_failure(self, error: Exception) -> None:
        """Set the pause before the next attempt. Log the first failure, then one a minute."""
        self._failures += 1
        now = self._clock()
        if self._failures > 1:
            doublings = min(self._failures - 2, 10)
            self._retry_at = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**doublings)
        if self._failures == 1 or now >= self._log_at:
            self._log_at = now + _LOG_EVERY_S
            logger.warning("Redis can't be reached: %s", error, extra={"failed_attempts": self._failures})

    def _note_server(self, connection: Any) -> None:
        """Find out whether the server was restarted and may have lost its last writes, and load all scripts.

        This runs before any other command of a connection.
        """
        connection.send_command("INFO", "server")
        info = dict(line.split(":", 1) for line in _text(connection.read_response()).splitlines() if ":" in line)
        run = info.get("run_id") or secrets.token_hex(8)
        connection.send_command("EVAL", self._note_server_script.source, 1, ANCHOR, "", run)
        connection.read_response()
        # A cast of a script that Redis does not know would be lost.
        for script in all_scripts():
            connection.send_command("SCRIPT", "LOAD", script.source)
        for _ in all_scripts():
            connection.read_response()


def _unknown_script(reply: Any) -> bool:
    return isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT")


def _packed(args: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub allows only tuples of one item
    return packed


def _checked(reply: Any) -> Any:
    if isinstance(reply, hiredis.ReplyError):
        message = str(reply)
        if message.startswith(_AWAY):
            raise PoolUnavailable(f"Redis can't serve now: {message}")
        raise redis.ResponseError(message)
    return reply


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
