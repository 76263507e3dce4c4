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

from qinling_falcon.pool.lua import ANCHOR, library
from qinling_falcon.pool.wire import Abandoned, PoolUnavailable, Wire

logger = logging.getLogger(__name__)

Argument = str | int | float | bytes

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
# Interval in seconds between log lines during a long outage.
_LOG_EVERY_S = 60.0

# The errors of a Redis that can't serve now. It has not run the command.
_AWAY = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF", "NOREPLICAS")
_ERRORS = (hiredis.ReplyError, redis.ResponseError)
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
        self._library = library()
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
        self, script: str, args: Sequence[Argument], *, abandoned: Abandoned | None = None
    ) -> Any:
        """Run a script. If Redis does not know the library, load it first. Raises as `call` does."""
        command = self._packed_run(script, args)
        reply = self._send(command, None, abandoned)
        if _is_unknown(reply):  # so the script has not run
            loaded = self._send(_packed(("FUNCTION", "LOAD", self._library.text)), None, None)
            if not self._is_loaded_already(loaded):
                _checked(loaded)
            reply = self._send(command, None, abandoned)
        return _checked(reply, script)

    def cast(self, script: str, args: Sequence[Argument], answered: Abandoned | None = None) -> bool:
        """Send a script without waiting for its reply.

        A script that Redis does not know is not sent again: commands that were sent after it may rely on their order.
        The connection is closed instead, because each new one loads the library if it is missing.

        Args:
            script: its name.
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
            if _is_unknown(reply):
                gevent.spawn(wire.end, "Redis has forgotten the scripts")
            if isinstance(reply, hiredis.ReplyError):
                logger.error("a script failed", extra={"script": script, "reason": str(reply)})
                reply = PoolUnavailable(f"Redis refused the script {script}")
            if answered is not None:
                answered(reply)

        wire.cast(self._packed_run(script, args), self.timeout_s, finish)
        return True

    def another(self) -> PipelinedConnection:
        """Make another connection to the same server, for blocking commands."""
        return PipelinedConnection(self.url, timeout_s=self.timeout_s, clock=self._clock)

    def close(self) -> None:
        """Fail all calls that wait, and close the connection. A later call connects again."""
        if self._wire is not None:
            self._wire.end("The connection to Redis was closed")
            self._wire = None

    def _packed_run(self, script: str, args: Sequence[Argument]) -> bytes:
        return _packed(("FCALL", self._library.functions[script], 1, ANCHOR, *args))

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
        """Find out whether the server was restarted and may have lost its last writes.

        This runs before any other command of a connection. It also loads the library if it is missing, because a cast
        of a script that Redis does not know would be lost.
        """
        lines = _text(_asked(connection, "INFO", "server")).splitlines()
        info = dict(line.split(":", 1) for line in lines if ":" in line)
        run = info.get("run_id") or secrets.token_hex(8)
        note_server = ("FCALL", self._library.functions["note_server"], 1, ANCHOR, "", run)
        try:
            _asked(connection, *note_server)
        except redis.ResponseError as error:
            if not _is_unknown(error):
                raise
            try:
                _asked(connection, "FUNCTION", "LOAD", self._library.text)
            except redis.ResponseError as refusal:
                if not self._is_loaded_already(refusal):
                    raise
            _asked(connection, *note_server)

    def _is_loaded_already(self, reply: Any) -> bool:
        """Whether Redis has refused to load the library because another connection has loaded it just before."""
        return isinstance(reply, _ERRORS) and _reason(reply) == f"Library '{self._library.name}' already exists"


def _is_unknown(reply: Any) -> bool:
    """Whether Redis does not know the function of a script: it never got the library, or has lost it."""
    return isinstance(reply, _ERRORS) and _reason(reply).startswith("Function not found")


def _reason(error: Exception) -> str:
    """Redis's error message. redis-py removes its beginning, and hiredis does not."""
    return str(error).removeprefix("ERR ")


def _asked(connection: Any, *command: Argument) -> Any:
    connection.send_command(*command)
    return connection.read_response()


def _packed(args: tuple[Argument, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub allows only tuples of one item
    return packed


def _checked(reply: Any, script: str | None = None) -> Any:
    """A reply that is no error. The error of a script names it, which Valkey's own message does not."""
    if isinstance(reply, hiredis.ReplyError):
        message = str(reply)
        if message.startswith(_AWAY):
            raise PoolUnavailable(f"Redis can't serve now: {message}")
        raise redis.ResponseError(f"The script {script} failed: {message}" if script else message)
    return reply


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
