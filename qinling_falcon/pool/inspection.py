"""Reads the pool for the operator: counts, workers, queues, events, and the process and worker of an execution.

Each method reads a bounded part of the pool, a page at a time. A marker tells where the next page begins.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.runner import ScriptRunner

T = TypeVar("T")

MOST_ROWS = 100
"""The most rows of a page."""

EVENTS = ("started", "start_failed", "evicted", "recalled", "ended", "gone", "lost", "offer_expired")

_MOST_RUNTIMES = 100
_MOST_NEAR_EVENTS = 200


class UnknownMarker(ValueError):
    """A marker that is not from a page."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows, and the marker of the next page; None: this is the last one."""

    rows: list[T]
    next_marker: str | None


@dataclass(frozen=True, slots=True)
class PoolState:
    """The pool in numbers. The fields are those of the answer to `GET /v1/pool`."""

    manager: str | None
    host: dict[str, Any] | None
    capacity: dict[str, Any]
    workers: dict[str, int]
    demand: dict[str, int]
    calls: dict[str, int]
    runtimes: list[dict[str, Any]]
    runtimes_left_out: int


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """A worker, as answers show it."""

    id: str
    state: str
    runtime_id: str
    image: str
    age_s: float | None
    unused_s: float | None
    function_id: str | None
    function_version: int | None
    project_id: str | None
    kept: bool
    recalled: bool
    ends_after_call: bool
    lease: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class PoolQueue:
    """A queue, as answers show it."""

    runtime_id: str
    function_id: str
    function_version: int
    project_id: str
    ahead_of_calls: bool
    waiting: int
    processes: int
    oldest_wait_ms: float
    workers: int
    state: str
    blocked_by: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """An event, as answers show it."""

    id: str
    time: str
    event: str
    reason: str
    worker_id: str | None
    runtime_id: str | None
    function_id: str | None
    function_version: int | None
    execution_id: str | None
    process: str | None


@dataclass(frozen=True, slots=True)
class LiveExecution:
    """An execution whose final record is not committed yet.

    Attributes:
        detail: its detail in the journal.
        process: the process that has it in its journal.
        worker: the worker that runs it; None: its lease has ended, or a process of an older release has it.
        granted_ms: when the worker was leased for it, in ms of Redis's clock.
        is_first: whether the worker held no function before.
        ready_ms: when the worker was ready, in ms of Redis's clock.
    """

    detail: str
    process: str
    worker: PoolWorker | None
    granted_ms: float | None = None
    is_first: bool = False
    ready_ms: float = 0.0


class Inspection:
    """Reads the pool for the operator.

    Args:
        scripts: runs the reading scripts.
        connection: reads the events.
    """

    def __init__(self, scripts: ScriptRunner, connection: PipelinedConnection):
        self._scripts = scripts
        self._connection = connection

    def state(self) -> PoolState:
        """The pool in numbers."""
        read = orjson.loads(self._scripts.run("inspect_pool", _MOST_RUNTIMES))
        runtimes = [
            {
                "id": one["id"],
                "stock": one["stock"],
                "workers": {name: one[name] for name in ("starting", "warm", "idle", "leased")},
                "queues": {"escalated": one["escalated"], "blocked": one["blocked"]},
                "first_calls": one["first_calls"],
                "calls": one["calls"],
            }
            for one in sorted(read["runtimes"] or (), key=lambda one: str(one["id"]))
        ]
        host = read.get("host")
        return PoolState(
            manager=read.get("manager"),
            host=None if host is None else orjson.loads(host),
            capacity={
                "max_workers": read.get("max_workers"),
                "function_concurrency": read.get("of_function"),
                "project_concurrency": read.get("of_project"),
                "start_ms": read.get("start_ms"),
            },
            workers={"total": read["workers"], "leased": read["leased"], "draining": read["draining"]},
            demand={
                "waiting_calls": read["waiting"],
                "targets_with_workers": read["targets"],
                "processes": read["processes"],
                "unrecorded_losses": read["lost"],
            },
            calls=read["calls"],
            runtimes=runtimes,
            runtimes_left_out=int(read["left_out"]),
        )

    def workers(self, marker: str | None, limit: int) -> Page[PoolWorker]:
        """A page of the workers, in no order. A worker that comes or goes meanwhile may be left out.

        Raises:
            UnknownMarker: `marker` is not from a page.
        """
        cursor, number = _numbers(marker, 2) if marker else (0, 0)
        read = orjson.loads(self._scripts.run("inspect_workers", cursor, number, min(limit, MOST_ROWS)))
        following = f"{read['cursor']}.{int(read['number'])}" if "cursor" in read else None
        return Page([_worker(one) for one in read["workers"] or ()], following)

    def queues(self, marker: str | None, limit: int) -> Page[PoolQueue]:
        """A page of the queues, in no order. A queue that comes or goes meanwhile may be left out.

        Raises:
            UnknownMarker: `marker` is not from a page.
        """
        numbers, _, holder = (marker or "").partition("/")
        cursor, number = _numbers(numbers, 2) if marker else (0, 0)
        read = orjson.loads(self._scripts.run("inspect_queues", holder, cursor, number, min(limit, MOST_ROWS)))
        following = f"{read['cursor']}.{int(read['number'])}/{read['holder']}" if "holder" in read else None
        return Page([_queue(one) for one in read["queues"] or ()], following)

    def events(self, marker: str | None, limit: int) -> Page[PoolEvent]:
        """A page of the events, the newest first.

        Raises:
            UnknownMarker: `marker` is not from a page.
        """
        newest = "+"
        if marker:
            newest = "({}-{}".format(*_numbers(marker.replace("-", ".", 1), 2))
        limit = min(limit, MOST_ROWS)
        found = self._connection.call("XREVRANGE", keys.EVENTS, newest, "-", "COUNT", limit + 1)
        events = [_event(*item) for item in found[:limit]]
        return Page(events, events[-1].id if len(found) > limit else None)

    def events_near(self, begin_ms: float, end_ms: float, runtime_id: str | None, function_id: str) -> list[PoolEvent]:
        """The events of a period that concern a runtime or a function, in order.

        Args:
            begin_ms: the beginning of the period, in ms of Redis's clock.
            end_ms: its end.
            runtime_id: the runtime; None: unknown.
            function_id: the function. Events of other functions are left out.
        """
        newest, oldest = str(int(end_ms)), str(int(begin_ms))
        found = self._connection.call("XRANGE", keys.EVENTS, oldest, newest, "COUNT", _MOST_NEAR_EVENTS)
        events = [_event(*item) for item in found]
        return [
            event
            for event in events
            if event.function_id == function_id
            or (event.runtime_id == runtime_id is not None and event.event in ("started", "start_failed", "evicted"))
        ]

    def execution(self, execution_id: str) -> LiveExecution | None:
        """An execution that runs, or whose final record is not committed yet."""
        read = orjson.loads(self._scripts.run("inspect_execution", execution_id))
        if not read["found"]:
            return None
        if "worker" not in read:
            return LiveExecution(read["detail"], read["holder"], None)
        lease = read["worker"]["lease"]
        return LiveExecution(
            read["detail"],
            read["holder"],
            _worker(read["worker"]),
            granted_ms=lease["granted"],
            is_first=lease["is_first"],
            ready_ms=lease["ready"],
        )


def _numbers(text: str, count: int) -> list[int]:
    """Parse numbers that are separated by dots.

    Raises:
        UnknownMarker: the text is something else.
    """
    parts = text.split(".")
    if len(parts) != count or not all(part.isascii() and part.isdigit() and len(part) <= 20 for part in parts):
        raise UnknownMarker(text)
    return [int(part) for part in parts]


def _worker(read: Mapping[str, Any]) -> PoolWorker:
    function_id, version = _function(read.get("target"))
    lease = read.get("lease")
    return PoolWorker(
        id=read["id"],
        state=read["state"],
        runtime_id=read["runtime"],
        image=read["image"],
        age_s=_seconds(read.get("age_ms")),
        unused_s=_seconds(read.get("unused_ms")),
        function_id=function_id,
        function_version=version,
        project_id=read.get("project"),
        kept=read["kept"],
        recalled=read["recalled"],
        ends_after_call=read["ends"],
        lease=None
        if lease is None
        else {
            "process": lease["holder"],
            "execution_id": lease["execution"] or None,
            "accepted": lease["accepted"],
            "age_s": _seconds(lease["age_ms"]),
            "left_s": _seconds(lease["left_ms"]),
        },
    )


def _queue(read: Mapping[str, Any]) -> PoolQueue:
    function_id, version = _function(read["target"])
    assert function_id is not None and version is not None
    limit = read.get("limit")
    return PoolQueue(
        runtime_id=read["runtime"],
        function_id=function_id,
        function_version=version,
        project_id=read["project"],
        ahead_of_calls=read["kind"] == "warm",
        waiting=read["waiting"],
        processes=read["processes"],
        oldest_wait_ms=read["oldest_ms"],
        workers=read["workers"],
        state=read["state"],
        blocked_by=None if limit is None else {"limit": limit, "is": read["limit_is"], "used": read["used"]},
    )


def _event(event_id: bytes, fields: list[bytes]) -> PoolEvent:
    texts = iter(field.decode() for field in fields)
    members = dict(zip(texts, texts, strict=True))
    function_id, version = _function(members["target"])
    at = int(event_id.partition(b"-")[0]) / 1000
    return PoolEvent(
        id=event_id.decode(),
        time=datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(" ", "milliseconds").partition("+")[0],
        event=members["event"],
        reason=members["reason"],
        worker_id=members["worker"] or None,
        runtime_id=members["runtime"] or None,
        function_id=function_id,
        function_version=version,
        execution_id=members["execution"] or None,
        process=members["holder"] or None,
    )


def _function(target: str | None) -> tuple[str | None, int | None]:
    """The function and version of a target."""
    if not target:
        return None, None
    function_id, version, *_ = target.split(":")
    return function_id, int(version)


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds / 1000, 3)
