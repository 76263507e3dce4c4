"""Lets greenlets wait for the next change of something."""

from __future__ import annotations

from gevent.event import Event


class Changes:
    """Wakes all greenlets that wait, at each change."""

    def __init__(self) -> None:
        self._next = Event()

    def notify(self) -> None:
        """Wake the greenlets that wait now."""
        self._next.set()
        self._next = Event()

    def wait(self, timeout_s: float) -> None:
        """Wait for the next change, or until the time is up."""
        self._next.wait(timeout_s)
