"""One execution inside a worker: reads its request and writes its answer.

Input and output are not encoded as JSON strings: they follow the lines that describe them, unchanged.
"""

from __future__ import annotations

import math
import time
from json.encoder import encode_basestring_ascii

from .http_server import Connection
from .outcomes import Outcome


class BadCall(Exception):
    """The body of an `/execute` can't be used; the message says why."""


class Call:
    """An accepted execution that has not been answered yet.

    Args:
        connection: on which the answer goes.
        body: of the request, as the README describes it. Only its first line is read here. The child reads all of it.

    Raises:
        BadCall: the body has another form.
    """

    __slots__ = (
        "body", "connection", "duration_s", "execution_id", "outcome", "received", "restarts", "started", "timeout_s",
        "token",
    )  # fmt: skip

    def __init__(self, connection: Connection, body: bytes) -> None:
        try:
            body.decode("utf-8")
            first, about, *_ = body.split(b"\n", 2)
            token, execution_id, timeout_s = first.split(b" ")
            self.token = int(token)
            self.execution_id = execution_id.decode("ascii")
            self.timeout_s = float(timeout_s)
        except ValueError as error:
            raise BadCall(f"not an execution: {error}") from None
        if not self.execution_id or not 0 < self.timeout_s < math.inf:
            raise BadCall("not an execution: its id is empty, or its timeout is not a positive number")
        if not (about.startswith(b"{") and about.endswith(b"}")):
            raise BadCall("not an execution: its second line is not a JSON object")
        self.connection = connection
        self.body = body
        self.received = time.monotonic()
        self.started = 0.0
        self.duration_s = 0.0
        self.restarts = 0
        self.outcome: Outcome | None = None

    def answer(self, log: str) -> None:
        """Send the outcome to the caller."""
        outcome = self.outcome
        assert outcome is not None
        # A lone surrogate becomes its escape, which means the same inside a JSON text.
        output = outcome.output.encode("utf-8", "backslashreplace")
        reason = "null" if outcome.reason is None else f'"{outcome.reason}"'
        message = "null" if outcome.message is None else encode_basestring_ascii(outcome.message)
        head = (
            f'{{"status": "{outcome.status}", "reason": {reason}, "message": {message}, '
            f'"duration_s": {self.duration_s:.6f}, "busy_s": {time.monotonic() - self.received:.6f}, '
            f'"output_size": {len(output)}}}\n'
        )
        self.connection.answer(200, head.encode("ascii") + output + log.encode("utf-8"))
