"""Logs: one line of JSON for each event, with its ids."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from qinling_falcon.observability.logs import setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup_logging("info", "web", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_with_its_details(stream: io.StringIO) -> None:
    logging.getLogger("a.b").info("worker %s lost", "w-1", extra={"worker_id": "w-1", "request_id": "r\n1"})
    (event,) = events(stream)
    assert event["event"] == "worker w-1 lost"
    assert (event["level"], event["process"], event["logger"]) == ("info", "web", "a.b")
    assert (event["worker_id"], event["request_id"]) == ("w-1", "r\n1")
    assert event["time"].endswith("+00:00")


def test_a_traceback_stays_on_the_line_of_its_event(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("a").exception("it failed", extra={"what": object()})
    (event,) = events(stream)
    assert "ValueError: broken" in event["traceback"]


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logging.getLogger("a").debug("detail")
    assert events(stream) == []
