"""Structured logging: every event is one line of JSON, with the ids that belong to it.

Code logs with the standard library: the message is the event's name, its
details travel as `extra`::

    logger.warning("worker lost", extra={"worker_id": worker_id})
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def __init__(self, process: str):
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON: time, level, process, logger, event, then its details."""
        event: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                event[name] = value
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def setup_logging(level: str, process: str, stream: TextIO | None = None) -> None:
    """Send the events of this process to `stream` (standard error by default), one line each.

    Args:
        level: the lowest level that is written, in small letters.
        process: the name of this kind of process (`web`, `worker`, `pool` …).
        stream: where to; standard error by default.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(EventFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
