"""Cancels the interval timers that a call has started, such as those of `signal.alarm`, at its end.

Otherwise they would fire in a later call. This module runs in the child process together with user code.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps these functions in Python
import sys
from os import write

_modules = sys.modules
_get, _set = _signal.getitimer, _signal.setitimer
_TIMERS = (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF)
_STOPPED = (0.0, 0.0)
_NOTE = b"Cancelled at the end of the call: a timer of signal.alarm or signal.setitimer\n"


class Timers:
    """The interval timers of the function's process."""

    def __init__(self) -> None:
        self._cancelled = _TIMERS

    def end_import(self) -> None:
        """Note which timers the import has started as periodic. They are not cancelled."""
        self._cancelled = tuple(timer for timer in _TIMERS if _get(timer)[1] == 0.0)

    def end_call(self, log_fd: int) -> None:
        """Cancel the timers that calls have started, and say so in the log.

        A function that has not imported `signal` has none.
        """
        if "signal" in _modules:
            for timer in self._cancelled:
                if _set(timer, 0) != _STOPPED:
                    write(log_fd, _NOTE)
