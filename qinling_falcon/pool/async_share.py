"""Makes asynchronous executions wait while there are as many of them as may be.

`ASYNC_WORKERS` limits all, and each project and function has a share of them (see `scripts/parts/limits.lua`). Redis
has no queue for executions that are beyond these limits, because callers who wait go first. If this process has a
worker of the target, the execution waits for that. Otherwise it asks Redis again in two cases: when this process has
ended a lease, and about once a second, because another process may have ended one.
"""

from __future__ import annotations

import random
from collections import deque

from gevent.event import AsyncResult

ASK_AGAIN_S = 1.0
"""After about this time, an execution that was refused asks again."""


class AsyncShare:
    """The executions of this process that wait, in order."""

    def __init__(self) -> None:
        self._waiting: deque[AsyncResult] = deque()

    def wait(self, longest_s: float) -> None:
        """Wait until it may make sense to ask again, for at most `longest_s` seconds."""
        woken = AsyncResult()
        self._waiting.append(woken)
        try:
            woken.wait(min(longest_s, random.uniform(ASK_AGAIN_S / 2, 3 * ASK_AGAIN_S / 2)))
        finally:
            if not woken.ready():
                self._waiting.remove(woken)

    def freed(self) -> None:
        """Let the next execution ask, because a lease of this process has ended."""
        if self._waiting:
            self._waiting.popleft().set()
