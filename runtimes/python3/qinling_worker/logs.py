"""What a function prints, bounded."""

from __future__ import annotations

import os

_CHUNK = 64 * 1024
_PIPE_SIZE = 64 * 1024


class LogCapture:
    """Reads the pipe behind a child's descriptors 1 and 2 and keeps the first `limit` bytes."""

    def __init__(self, fd: int, limit: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._limit = limit
        self._chunks: list[bytes] = []
        self._kept = 0
        self._dropped = 0

    def read_some(self, keep: bool = True) -> bool:
        """Read one chunk and keep it or not; False when there is nothing more for now."""
        try:
            chunk = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            return False
        if not keep:
            return True
        room = self._limit - self._kept
        if room > 0:
            self._chunks.append(chunk[:room])
            self._kept += min(room, len(chunk))
        self._dropped += max(0, len(chunk) - room)
        return True

    def add(self, text: str) -> None:
        """Add a line of our own to what is kept."""
        data = text.encode("utf-8", "replace")
        self._chunks.append(data)
        self._kept += len(data)

    def drain(self) -> None:
        """Read what was printed before now, and not what somebody goes on printing."""
        for _ in range(_PIPE_SIZE // 4096 + 1):
            if not self.read_some():
                return

    def take_over(self, other: LogCapture) -> None:
        """Take over the output that `other` has kept, in place of our own."""
        self._chunks, self._kept, self._dropped = other._chunks, other._kept, other._dropped
        other._chunks, other._kept, other._dropped = [], 0, 0

    def take(self, execution_id: str) -> str:
        """The log of an execution, and start afresh."""
        if not self._kept:
            return f"Start execution: {execution_id}\nFinished execution: {execution_id}\n"
        text = b"".join(self._chunks).decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        if not text.endswith("\n"):
            text += "\n"
        if self._dropped:
            text += f"--- log cut: {self._dropped} more bytes were printed ---\n"
        self._chunks.clear()
        self._kept = self._dropped = 0
        return f"Start execution: {execution_id}\n{text}Finished execution: {execution_id}\n"

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.fd)
