"""Makes asynchronous executions wait while `ASYNC_WORKERS` workers run asynchronous executions.

Redis has no queue for these executions, because callers who wait go first. An execution asks Redis again in two cases:
when this process has ended a lease, and about once a second, because another process may have ended one.
"""

from __future__ import annotations

import random
from collections import deque

from gevent.event import AsyncResult

_ASK_AGAIN_S = 1.0


class AsyncShare:
    """The executions of this process that wait, in order."""

    def __init__(self) -> None:
        self._waiting: deque[AsyncResult] = deque()

    def wait(self, longest_s: float) -> None:
        """Wait until it may make sense to ask again, for at most `longest_s` seconds."""
        woken = AsyncResult()
        self._waiting.append(woken)
        try:
            woken.wait(min(longest_s, random.uniform(_ASK_AGAIN_S / 2, 3 * _ASK_AGAIN_S / 2)))
        finally:
            if not woken.ready():
                self._waiting.remove(woken)

    def freed(self) -> None:
        """Let the next execution ask, because a lease of this process has ended."""
        if self._waiting:
            self._waiting.popleft().set()
