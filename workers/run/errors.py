"""Why a start ends early."""

from __future__ import annotations


class StartError(Exception):
    """The service can't start; the message says why.

    Args:
        message: for the person at the terminal.
        log: name of the log whose last lines explain it.
    """

    def __init__(self, message: str, log: str | None = None):
        super().__init__(message)
        self.log = log


class Stopped(Exception):
    """A signal asked for the end before the service was ready."""
