"""Helpers for tests of hostile functions."""

from __future__ import annotations

from tests.runtime.client import Answer


def forging(kind: int, payload: bytes) -> str:
    """Code that sends a frame to the supervisor in the name of the child's loop."""
    return f"""
import os, socket, struct, time
payload = {payload!r}
for fd in range(3, 256):
    try: socket.socket(fileno=os.dup(fd)).sendall(struct.pack('!IBd', len(payload), {kind}, 0.0) + payload)
    except OSError: pass
time.sleep(60)
"""


def assert_failed(answer: Answer, reason: str, output: str) -> None:
    assert (answer.status, answer.reason, answer.output) == ("failed", reason, output)
