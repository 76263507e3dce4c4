"""Keeps what a worker's supervisor or a zygote writes to its standard output and error, for logs and error messages."""

from __future__ import annotations

import os

_TAIL = 2000


class Messages:
    """A file in memory. Its memory counts for the control group of the process that writes to it.

    Attributes:
        fd: the descriptor to pass to a process as its standard output and error.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("messages")

    def __del__(self) -> None:
        os.close(self.fd)

    def tail(self) -> str:
        """The last 2000 bytes of what was written, as text."""
        start = max(0, os.fstat(self.fd).st_size - _TAIL)
        return os.pread(self.fd, _TAIL, start).decode(errors="replace").strip()

    def with_tail(self, summary: str) -> str:
        """`summary`, followed by `tail()` if that is not empty."""
        tail = self.tail()
        return f"{summary}: {tail}" if tail else summary
