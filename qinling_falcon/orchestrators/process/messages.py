"""What a worker's supervisor, or a zygote, writes to its standard output and error: for logs and error messages."""

from __future__ import annotations

import os

_TAIL = 2000


class Messages:
    """A file in memory; whoever writes to it is charged for it.

    Attributes:
        fd: the descriptor to be passed on as standard output and error.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("messages")

    def __del__(self) -> None:
        os.close(self.fd)

    def tail(self) -> str:
        """The end of what was written."""
        start = max(0, os.fstat(self.fd).st_size - _TAIL)
        return os.pread(self.fd, _TAIL, start).decode(errors="replace").strip()

    def after(self, what: str) -> str:
        """`what`, followed by the end of what was written, if anything was."""
        tail = self.tail()
        return f"{what}: {tail}" if tail else what
