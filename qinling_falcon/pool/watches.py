"""The executions that this process watches, because its requests wait for their end.

A request opens a watch, registers it, reads the execution, and then waits, in this order: an end that is committed
after the read notifies this process. Redis has one registration for each process and execution. The notification ends
it, so a request that finds that its execution goes on registers it again.

Notifications and registrations can be lost with Redis or with a connection. Then all executions are registered again,
and `doubted` is set. If this process dies, its registrations end after `_TTL_S`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator

import gevent
from gevent.event import AsyncResult, Event

from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable

logger = logging.getLogger(__name__)

_TTL_S = 30.0
_RENEW_S = 10.0
_RETRY_S = 0.5
_MOST_AT_ONCE = 500


class Watches:
    """The watches of this process.

    Args:
        scripts: runs scripts.
        holder: the name of this process.

    Attributes:
        doubted: set when an end may have been missed, so all executions have to be read again. The reader clears it.
    """

    def __init__(self, scripts: ScriptRunner, holder: str):
        self._scripts = scripts
        self._holder = holder
        self._watched: dict[str, _Watched] = {}
        self._to_register = Event()
        self.doubted = Event()

    @contextlib.contextmanager
    def open(self, execution_id: str) -> Iterator[Watch]:
        """Open a watch for one request. It ends with the `with` block."""
        watched = self._watched.get(execution_id)
        if watched is None:
            watched = self._watched[execution_id] = _Watched(execution_id)
        watch = Watch(self, watched)
        watched.watches.add(watch)
        try:
            yield watch
        finally:
            watched.watches.remove(watch)
            if not watched.watches:
                del self._watched[execution_id]
                if watched.is_registered:
                    self._scripts.cast("unwatch", self._holder, execution_id)

    def ids(self) -> list[str]:
        """The watched executions."""
        return list(self._watched)

    def wake(self, execution_ids: Iterable[str]) -> None:
        """Make the requests that wait for these executions read them again."""
        for execution_id in execution_ids:
            if (watched := self._watched.get(execution_id)) is not None:
                for watch in watched.watches:
                    watch.wake()

    def notified(self, *execution_ids: str) -> None:
        """Handle a notification: these executions have ended, or may have. Must not wait."""
        for execution_id in execution_ids:
            if (watched := self._watched.get(execution_id)) is not None:
                watched.is_registered = False
                for watch in watched.watches:
                    watch.wake(has_ended=True)

    def register_again(self) -> None:
        """Register all executions again soon, and set `doubted` then, because Redis may have lost something."""
        self._to_register.set()

    def register(self, watched: _Watched) -> None:
        """Register an execution, unless it is registered. If Redis is away, that happens later.

        Requests for the same execution share one attempt.
        """
        while watched.attempt is not None or not watched.is_registered:
            if not (self._attempt(watched) if watched.attempt is None else watched.attempt.get()):
                return

    def keep_registered(self) -> None:
        """Renew the registrations, and repeat them after losses, for ever."""
        while True:
            is_unsure = self._to_register.wait(_RENEW_S)
            self._to_register.clear()
            try:
                self._send(list(self._watched.values()))
                if is_unsure:
                    self.doubted.set()
            except PoolUnavailable:
                gevent.sleep(_RETRY_S)
                self._to_register.set()
            except Exception:
                logger.exception("watched executions could not be registered")
                gevent.sleep(_RETRY_S)

    def _attempt(self, watched: _Watched) -> bool:
        """Register one execution. Returns False if Redis is away."""
        attempt = watched.attempt = AsyncResult()
        is_done = False
        try:
            with contextlib.suppress(PoolUnavailable):
                self._send([watched])
                is_done = True
        finally:  # also if this greenlet is killed
            if not is_done:
                self._to_register.set()
            watched.attempt = None
            attempt.set(is_done)
        return is_done

    def _send(self, all_watched: Collection[_Watched]) -> None:
        """Register executions. Raises `PoolUnavailable` if Redis is away."""
        pending = list(all_watched)
        while pending:
            some, pending = pending[:_MOST_AT_ONCE], pending[_MOST_AT_ONCE:]
            # Set before the reply, because a notification, which comes on another connection, may overtake the reply.
            for watched in some:
                watched.is_registered = True
            try:
                ids = [watched.execution_id for watched in some]
                self._scripts.run("watch", self._holder, int(_TTL_S * 1000), *ids)
            except PoolUnavailable:
                for watched in some:
                    watched.is_registered = False
                raise


class Watch:
    """The wait of one request for changes of one execution.

    Args:
        watches: registers it.
        watched: its execution.
    """

    __slots__ = ("_has_ended", "_watched", "_watches", "_woken")

    def __init__(self, watches: Watches, watched: _Watched):
        self._watches = watches
        self._watched = watched
        self._woken = Event()
        self._has_ended = False

    def register(self) -> None:
        """Register the execution. Read it afterwards, and before `wait`."""
        self._watches.register(self._watched)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the execution has to be read again, or for `timeout_s` seconds.

        Returns:
            Whether a notification came, so that the execution has ended, or an attempt of it.
        """
        self._woken.wait(timeout_s)
        self._woken.clear()
        has_ended, self._has_ended = self._has_ended, False
        return has_ended

    def wake(self, *, has_ended: bool = False) -> None:
        """End the wait, or the next one. Does not wait itself."""
        self._has_ended = self._has_ended or has_ended
        self._woken.set()


class _Watched:
    """An execution for which at least one request waits.

    Attributes:
        watches: of the requests.
        is_registered: whether Redis has, or soon gets, the registration, and has not sent a notification since.
        attempt: the pending registration; its result is whether Redis has answered. None: none is pending.
    """

    __slots__ = ("attempt", "execution_id", "is_registered", "watches")

    def __init__(self, execution_id: str):
        self.execution_id = execution_id
        self.watches: set[Watch] = set()
        self.is_registered = False
        self.attempt: AsyncResult | None = None
