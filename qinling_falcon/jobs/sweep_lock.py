"""Elects the `tasks` process that enqueues missing drains, sweeps the queue of executions, cancels executions of
deleted functions and sets missing alarms.

If two processes do this work at once, it only takes longer. So GET and the following command need not be atomic.
"""

from __future__ import annotations

import contextlib
import time
import uuid

from redis import Redis
from redis.exceptions import RedisError

_KEY = "qf:sweep"
# The holder extends the lock every second. When it dies, another process takes over after this time.
_LOCK_MS = 5000
# A process whose pass has failed leaves the lock to others for this time: perhaps they can reach the database.
_LEFT_TO_OTHERS_S = 3.0


class SweepLock:
    """The lock, as one process sees it.

    Args:
        connection: as `queues.connect` makes it.
    """

    def __init__(self, connection: Redis):
        self._connection = connection
        self._name = uuid.uuid4().hex
        self._not_before = 0.0

    def take(self) -> bool:
        """Take the lock, or extend it. Returns whether this process has it.

        Raises:
            RedisError: Redis is away.
        """
        if time.monotonic() < self._not_before:
            return False
        if self._connection.set(_KEY, self._name, nx=True, px=_LOCK_MS):
            return True
        return self._is_mine() and bool(self._connection.pexpire(_KEY, _LOCK_MS))

    def leave_to_others(self) -> None:
        """Release the lock after a failure, and do not take it for some seconds. If Redis is away, the lock expires."""
        self._not_before = time.monotonic() + _LEFT_TO_OTHERS_S
        with contextlib.suppress(RedisError):
            if self._is_mine():
                self._connection.delete(_KEY)

    def _is_mine(self) -> bool:
        return self._connection.get(_KEY) == self._name.encode()
