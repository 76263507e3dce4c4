"""Limits the requests to the API server to a budget per minute."""

from __future__ import annotations

import logging
import time
from collections import deque

import gevent

logger = logging.getLogger(__name__)

_MINUTE_S = 60.0


class Budget:
    """The requests of the last minute. At the limit, the next request waits.

    Args:
        per_minute: the most requests in any 60 s.
    """

    def __init__(self, per_minute: int):
        self.per_minute = per_minute
        self._sent: deque[float] = deque()
        self._warned_at = float("-inf")

    @property
    def used(self) -> int:
        """How many requests were sent in the last 60 s."""
        self._forget_old(time.monotonic())
        return len(self._sent)

    def spend(self) -> None:
        """Count a request that is sent now. At the limit, wait until the oldest one is a minute old."""
        while True:
            now = time.monotonic()
            self._forget_old(now)
            if len(self._sent) < self.per_minute:
                self._sent.append(now)
                return
            if now - self._warned_at >= _MINUTE_S:
                self._warned_at = now
                logger.warning(
                    "requests to the API server wait: the budget is used up", extra={"per_minute": self.per_minute}
                )
            gevent.sleep(max(0.01, self._sent[0] + _MINUTE_S - now))

    def _forget_old(self, now: float) -> None:
        while self._sent and self._sent[0] <= now - _MINUTE_S:
            self._sent.popleft()
