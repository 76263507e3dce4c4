"""One execution inside a worker, and the answer that it ends in."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii
from json.scanner import make_scanner
from typing import Any

from .http_server import Connection
from .outcomes import Outcome

_make_scanner: Any = make_scanner
_scan: Callable[[str, int], tuple[Any, int]] = _make_scanner(json.JSONDecoder())


class BadCall(Exception):
    """The body of an `/execute` can't be used; the message says why."""


class Call:
    """An accepted execution that has not been answered yet."""

    __slots__ = (
        "body", "connection", "duration_s", "execution_id", "outcome", "received", "restarts", "started", "timeout_s",
        "token",
    )  # fmt: skip

    def __init__(self, connection: Connection, body: bytes) -> None:
        try:
            text = body.decode("utf-8").strip(" \t\n\r")
            given, end = _scan(text, 0)
            if end != len(text):
                raise ValueError("more than one JSON value")
            self.token: int = given["token"]
            self.execution_id: str = given["execution_id"]
            self.timeout_s: float = given["timeout_s"]
            given_input, context = given["input"], given.get("context")
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as error:
            raise BadCall(f"not an execution: {type(error).__name__}: {error}") from None
        if (
            type(self.token) is not int
            or type(self.execution_id) is not str
            or type(self.timeout_s) not in (int, float)
            or not 0 < self.timeout_s < math.inf
            or not (given_input is None or type(given_input) is str)
            or not (context is None or type(context) is dict)
        ):
            raise BadCall("not an execution: a value has a wrong type")
        self.connection = connection
        self.body = body.strip(b" \t\n\r")
        self.received = time.monotonic()
        self.started = 0.0
        self.duration_s = 0.0
        self.restarts = 0
        self.outcome: Outcome | None = None

    def answer(self, log: str) -> None:
        """Send the outcome to the caller."""
        outcome = self.outcome
        assert outcome is not None
        result = f'{{"duration": {self.duration_s:.3f}, "output": {outcome.output}}}'
        reason = "null" if outcome.reason is None else f'"{outcome.reason}"'
        message = "null" if outcome.message is None else encode_basestring_ascii(outcome.message)
        body = (
            f'{{"status": "{outcome.status}", "reason": {reason}, "message": {message}, '
            f'"duration_s": {self.duration_s:.6f}, "busy_s": {time.monotonic() - self.received:.6f}, '
            f'"result": {encode_basestring_ascii(result)}, "log": {encode_basestring_ascii(log)}}}'
        )
        self.connection.answer(200, body.encode("ascii"))
