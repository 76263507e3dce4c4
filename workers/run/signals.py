"""The signals that end the service, as something to wait for."""

from __future__ import annotations

import os
import select
import signal
import time
from types import FrameType

_AGAIN_AFTER_S = 0.5


class StopSignals:
    """Notes SIGINT, SIGTERM and SIGHUP from its construction on.

    A second Ctrl-C asks for an end at once. One signal may arrive twice (from the terminal and passed on by make), so
    one that follows within half a second is taken for the same.
    """

    def __init__(self) -> None:
        self.requested = False
        self.urgent = False
        self._first_at = 0.0
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    def wait(self, timeout_s: float) -> bool:
        """Wait for a signal or the time to pass; whether an end is asked for."""
        if not self.requested:
            select.select([self._reader], [], [], timeout_s)
        return self.requested

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested = True
            self._first_at = now
            os.write(self._writer, b"!")
        elif signum == signal.SIGINT and now - self._first_at > _AGAIN_AFTER_S:
            self.urgent = True
