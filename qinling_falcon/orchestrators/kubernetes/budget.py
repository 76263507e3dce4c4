"""Limits the requests to the API server to a budget per minute."""

from __future__ import annotations

import logging
import time
from collections import deque

import gevent

logger = logging.getLogger(__name__)

_MINUTE_S = 60.0
# This share of the budget is kept for urgent requests.
_URGENT_SHARE = 10


class Budget:
    """The requests of the last minute. At the limit, the next request waits.

    A tenth of the budget is for urgent requests alone, so that other requests can't keep a manager from renewing its
    Lease or from deleting pods.

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

    def spend(self, timeout_s: float, *, urgent: bool) -> bool:
        """Count a request that is sent now. At the limit, wait until enough requests are a minute old.

        Args:
            timeout_s: how long to wait.
            urgent: whether the request may use what is kept for urgent ones.

        Returns:
            Whether the request may be sent. False: it would have to wait longer than `timeout_s`.
        """
        limit = self.per_minute if urgent else self.per_minute - self.per_minute // _URGENT_SHARE
        deadline = time.monotonic() + timeout_s
        while True:
            now = time.monotonic()
            self._forget_old(now)
            if len(self._sent) < limit:
                self._sent.append(now)
                return True
            if now - self._warned_at >= _MINUTE_S:
                self._warned_at = now
                logger.warning(
                    "requests to the API server wait: the budget is used up", extra={"per_minute": self.per_minute}
                )
            free_at = self._sent[len(self._sent) - limit] + _MINUTE_S
            if free_at > deadline:
                return False
            gevent.sleep(max(0.01, free_at - now))

    def _forget_old(self, now: float) -> None:
        while self._sent and self._sent[0] <= now - _MINUTE_S:
            self._sent.popleft()
