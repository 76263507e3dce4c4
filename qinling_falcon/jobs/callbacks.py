"""Delivers callbacks: requests to URLs of users, after asynchronous executions have ended.

The `tasks` process calls `Callbacks.deliver_due` twice a second. The callbacks are rows of the database (see
`models/callbacks.py`), so a process that dies loses none.
"""

from __future__ import annotations

import datetime
import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from gevent.event import Event
from gevent.pool import Pool

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import callback_rows, callbacks, clock, database
from qinling_falcon.models.callbacks import ClaimedCallback
from qinling_falcon.models.secret_keys import SecretUnreadable
from qinling_falcon.models.tables import Execution
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks import depth, signing
from qinling_falcon.webhooks.sender import NotDelivered, Sender

logger = logging.getLogger(__name__)

_BUDGET_S = 5.0
_LOOK_EVERY_S = 1.0
_LONGEST_PAUSE_S = 3600.0
# A claim outlasts its delivery by this time, so that the outcome can be written.
_CLAIM_RESERVE_S = 30.0


class _Dropped(Exception):
    """A callback can't be delivered, now or later; the message says why."""


class Callbacks:
    """Delivers the callbacks of all projects, many at once. One object serves a process.

    Args:
        settings: the limits.
        show: converts an execution to the data of its callback, for JSON.
        sender: sends the requests.
    """

    def __init__(self, settings: Settings, show: Callable[[Execution], dict[str, Any]], sender: Sender | None = None):
        self._settings = settings
        self._show = show
        self._sender = sender or Sender(settings)
        self._running = Pool(settings.callback_concurrency)
        self._by_project: Counter[str] = Counter()
        self._most_of_project = max(1, settings.callback_concurrency // 4)
        self._last_project = ""
        self._look_again = Event()
        self._is_looking = False

    def deliver_due(self, budget_s: float = _BUDGET_S) -> int:
        """Claim the callbacks that are due, and start to deliver them.

        This returns when no more callbacks are due, or after `budget_s`. Deliveries may go on after that; each one ends
        within `CALLBACK_TIMEOUT_S`. If nothing is due, this makes one query. A second call at the same time returns 0
        at once, and lets the first one look again.

        Args:
            budget_s: how long it goes on if there are more callbacks than places, in seconds. With 0 it never waits.

        Returns:
            How many deliveries it has started.

        Raises:
            Unavailable: the database is away.
        """
        if self._is_looking:
            self._look_again.set()
            return 0
        if not callbacks.has_due(clock.wall()):
            return 0
        self._is_looking = True
        ends_at = time.monotonic() + budget_s
        started = 0
        try:
            while True:
                self._look_again.clear()
                more, is_waiting = self._start_deliveries()
                started += more
                left_s = ends_at - time.monotonic()
                if left_s <= 0 or not (more or is_waiting):
                    return started
                if is_waiting:
                    # This project waits for its own places. Callbacks of others may be added, which have places.
                    self._look_again.wait(min(left_s, _LOOK_EVERY_S))
        finally:
            self._is_looking = False

    def close(self, timeout_s: float) -> None:
        """Wait for the deliveries that run. After `timeout_s`, end them; other processes repeat them later."""
        self._running.join(timeout_s)
        self._running.kill()

    def _start_deliveries(self) -> tuple[int, bool]:
        """Visit the projects that have due callbacks, in turn, and start as many deliveries as there are places.

        Returns:
            How many it has started, and whether callbacks wait for places.
        """
        started = 0
        is_waiting = False
        visited: set[str] = set()
        now = clock.wall()
        until = now + datetime.timedelta(seconds=self._settings.callback_timeout_s + _CLAIM_RESERVE_S)
        while True:
            project_id = callbacks.next_project(self._last_project, now)
            if project_id is None and self._last_project:
                self._last_project = ""
                continue
            if project_id is None or project_id in visited:
                return started, is_waiting
            places = min(self._running.free_count(), self._most_of_project - self._by_project[project_id])
            if self._running.free_count() == 0:
                return started, True
            visited.add(project_id)
            self._last_project = project_id
            if places <= 0:
                is_waiting = True
                continue
            claimed = callbacks.claim(project_id, now, until, places)
            is_waiting = is_waiting or len(claimed) == places
            started += len(claimed)
            for callback in claimed:
                self._by_project[project_id] += 1
                delivery = self._running.spawn(self._deliver, callback)
                delivery.rawlink(lambda _: self._look_again.set())

    def _deliver(self, callback: ClaimedCallback) -> None:
        """Make one attempt, and write its outcome. If that fails, the claim ends by itself."""
        try:
            self._attempt(callback)
        except Unavailable as error:
            _log(logging.WARNING, "callback not recorded", callback, reason=str(error))
        except Exception:
            _log(logging.ERROR, "callback failed unexpectedly", callback, exc_info=True)
        finally:
            self._by_project[callback.project_id] -= 1
            if not self._by_project[callback.project_id]:
                del self._by_project[callback.project_id]

    def _attempt(self, callback: ClaimedCallback) -> None:
        most = self._settings.callback_max_attempts
        try:
            if callback.attempt > most:  # a process died at the last attempt
                raise _Dropped(f"It was not delivered in {most} attempts.")
            headers, body = self._message(callback)
            status = self._sender.post(callback.url, headers, body, callback.project_id)
        except _Dropped as error:
            self._drop(callback, error)
        except (NotDelivered, SecretUnreadable) as error:
            if callback.attempt >= most or (isinstance(error, NotDelivered) and error.is_final):
                self._drop(callback, error)
                return
            pause_s = self._pause_s(callback.attempt)
            callbacks.postpone(callback.id, callback.attempt, clock.wall() + datetime.timedelta(seconds=pause_s))
            _log(logging.INFO, "callback failed", callback, reason=str(error), again_in_s=round(pause_s, 1))
        else:
            callbacks.finish(callback.id, callback.attempt, is_delivered=True)
            _log(logging.DEBUG, "callback delivered", callback, status=status)

    def _drop(self, callback: ClaimedCallback, error: Exception) -> None:
        callbacks.finish(callback.id, callback.attempt, is_delivered=False)
        _log(logging.WARNING, "callback dropped", callback, reason=str(error))

    def _message(self, callback: ClaimedCallback) -> tuple[dict[str, str], bytes]:
        """The headers and the body of the request.

        Raises:
            _Dropped: there is nothing to send, or it must not be sent.
            SecretUnreadable: the function's secret can't be decrypted.
        """
        execution, has_function, secret = callbacks.subject(callback)
        if execution is None:
            raise _Dropped("The execution was deleted.")
        if callback.event != callback_rows.event_of(execution.status):
            raise _Dropped("The execution was queued again after this end.")
        if not has_function:
            raise _Dropped("The function was deleted.")
        its_depth = execution.callback_depth or 0
        if its_depth >= depth.DEEPEST:
            raise _Dropped(f"{its_depth} callbacks led to the execution, one after another. That is the limit.")
        ended_at = execution.updated_at or execution.created_at
        body = orjson.dumps(
            {
                "type": callback.event,
                "timestamp": ended_at.isoformat().replace("+00:00", "Z"),
                "data": self._show(execution),
            }
        )
        plain = None if secret is None else database.secret_keys().decrypt(secret)
        headers = signing.headers(callback.id, int(time.time()), body, plain)
        return headers | {depth.HEADER: str(its_depth + 1)}, body

    def _pause_s(self, attempt: int) -> float:
        """The pause after a failed attempt. It is random, so that callbacks that failed together spread."""
        longest_s = min(self._settings.callback_backoff_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
        return random.uniform(0, longest_s)


def _log(level: int, event: str, callback: ClaimedCallback, *, exc_info: bool = False, **details: Any) -> None:
    ids = {name: getattr(callback, name) for name in ("execution_id", "function_id", "project_id", "attempt")}
    logger.log(level, event, extra=ids | details, exc_info=exc_info)
