"""Requests that wait for the end of an execution, for `GET /v1/executions/{id}?wait=…`.

A waiting request is a greenlet that sleeps and does not poll. There are four reasons why it wakes up:

1. The process that commits the end notifies this one through Redis (see `pool/ended.py`, `pool/watches.py`).
2. Notifications may be lost with a connection or with the data of Redis. Then all executions for which requests wait
   are registered again and read once more.
3. The process that committed the end has died before it could notify. Every `_LOOK_S` seconds, one statement reads all
   executions for which requests wait.
4. The time is up, the client has disconnected, or this process stops. The request is answered with the present state.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import gevent

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.invocation.admission import Admission
from qinling_falcon.models import execution as executions
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.watches import Watch, Watches

logger = logging.getLogger(__name__)

_LOOK_S = 5.0
_MOST_AT_ONCE = 500


class Shown(Protocol):
    """An execution that has a row, or that runs and has none yet."""

    @property
    def status(self) -> str:
        """The status, as the API shows it."""


S = TypeVar("S", bound=Shown)


class Waits:
    """The requests of this process that wait.

    Args:
        watches: the executions that this process watches.
        admission: limits the requests; None: no limit.
    """

    def __init__(self, watches: Watches, admission: Admission | None = None):
        self._watches = watches
        self._admission = admission
        self._open: set[Wait] = set()
        self._is_stopping = False

    def start(self) -> None:
        """Start the background task that looks for ends of which no notification came."""
        gevent.spawn(self._look_on)

    @contextlib.contextmanager
    def open(self, project_id: str, execution_id: str, wait_s: float) -> Iterator[Wait]:
        """Let a request wait for up to `wait_s` seconds, inside the `with` block.

        Args:
            project_id: the caller's project.
            execution_id: the execution, which the caller may see.
            wait_s: the longest wait.

        Raises:
            Unavailable: too many requests wait.
        """
        admitted = contextlib.nullcontext() if self._admission is None else self._admission.admit_wait(project_id)
        with admitted, self._watches.open(execution_id) as watch:
            wait = Wait(watch, wait_s)
            self._open.add(wait)
            try:
                if self._is_stopping:
                    wait.end()
                yield wait
            finally:
                self._open.remove(wait)

    def stop(self) -> None:
        """Answer all waiting requests with the present state. From now on, requests do not wait."""
        self._is_stopping = True
        for wait in self._open:
            wait.end()

    def _look_on(self) -> None:
        while True:
            self._watches.doubted.wait(_LOOK_S)
            self._watches.doubted.clear()
            try:
                self._look()
            except Unavailable as error:  # the next look comes soon
                logger.info("executions for which requests wait can't be read", extra={"reason": str(error)})
            except Exception:
                logger.exception("executions for which requests wait were not read")

    def _look(self) -> None:
        """Wake the requests whose execution has no row with status `running`. They read it themselves."""
        ids = self._watches.ids()
        while ids:
            some, ids = ids[:_MOST_AT_ONCE], ids[_MOST_AT_ONCE:]
            running = executions.running(some)
            self._watches.wake(execution_id for execution_id in some if execution_id not in running)


class Wait:
    """One request that waits.

    Args:
        watch: its execution.
        wait_s: the longest wait.
    """

    def __init__(self, watch: Watch, wait_s: float):
        self._watch = watch
        self._until = time.monotonic() + wait_s
        self._is_over = False

    def until_final(self, read: Callable[[], S]) -> S:
        """Wait until the execution is final, the time is up, or `end` is called. Returns the execution.

        Args:
            read: reads the execution as the caller may see it.

        Raises:
            Exception: an error of `read`. Two errors do not end the wait before the time is up: `Unavailable`, because
                the database or Redis may come back; and `NotFound` without a notification, because Redis may have lost
                a running synchronous execution, which gets its row when it ends.
        """
        has_ended = False
        while True:
            left_s = 0.0 if self._is_over else self._until - time.monotonic()
            if left_s > 0:
                self._watch.register()
            try:
                shown = read()
            except (NotFound, Unavailable) as error:
                if left_s <= 0 or (has_ended and isinstance(error, NotFound)):
                    raise
            else:
                if left_s <= 0 or shown.status != ExecutionStatus.RUNNING:
                    return shown
            has_ended = self._watch.wait(left_s)

    def end(self) -> None:
        """End the wait now. Does not wait itself."""
        self._is_over = True
        self._watch.wake()
