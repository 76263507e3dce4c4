"""The record of an execution: written once for good, many at a time.

This is the hot path of every call: one statement for all records of a batch, one
for the count of each function or version.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import peewee

from qinling_falcon.models import callbacks, clock
from qinling_falcon.models.batches import MOST_TEXT
from qinling_falcon.models.database import engine, transact_grouped
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution, Function, Version

_MAX_ROWS = 500


class ExecutionRecord(NamedTuple):
    """All columns of an execution that has ended, or (status `running`) begun.

    A named tuple: making a frozen dataclass of so many fields takes four times as long.
    """

    id: str
    project_id: str
    function_id: str
    status: str
    created_at: datetime.datetime
    function_version: int = 0
    function_alias: str | None = None
    description: str | None = None
    input: str | None = None
    result: str | None = None
    log: str | None = None
    status_reason: str | None = None
    sync: bool = True
    cold: str | None = None
    queued_ms: float | None = None
    run_ms: float | None = None
    source: str = "api"
    updated_at: datetime.datetime | None = None
    attempt: int = 1
    webhook_id: str | None = None
    job_id: str | None = None
    request_id: str | None = None
    callback_depth: int | None = None

    def as_accepted(self) -> ExecutionRecord:
        """This record, as one of an asynchronous execution that was accepted and has not started."""
        return self._replace(status=ExecutionStatus.RUNNING.value, sync=False, attempt=0)


def record(rec: ExecutionRecord) -> bool:
    """Write an execution's state; durable on return. The first final state wins.

    A state that became final by this call adds one to the `count` of its function or version. Text that no database
    holds (NUL, lone surrogates) is replaced, for what has run must not be lost.

    Returns:
        Whether the row now shows this state; False: the execution had ended already.

    Raises:
        Unavailable: see `transact`. It is safe to call again: a state that was written is not counted twice.
    """
    won: bool = transact_grouped(values_of(rec), write)
    return won


def begin(rec: ExecutionRecord) -> bool:
    """Write that an execution has begun, before it runs: for inputs too large for its lease.

    Returns:
        Whether it is begun now; False: it had ended already.
    """
    return record(rec._replace(status=ExecutionStatus.RUNNING.value))


_COLUMNS = ExecutionRecord._fields
PLACE = {name: place for place, name in enumerate(_COLUMNS)}
"""The place of each column in `Values`."""
_ID, _FUNCTION, _VERSION, _STATUS, _SYNC = (
    PLACE[name] for name in ("id", "function_id", "function_version", "status", "sync")
)
_TEXTS = tuple(PLACE[name] for name in ("input", "result", "log", "status_reason", "description"))
_CREATED, _UPDATED = PLACE["created_at"], PLACE["updated_at"]
# What the end of an execution says anew; the rest was right when it began. An alias may have moved on since then.
_ENDED = (
    "function_id", "function_version", "result", "log", "status", "status_reason", "cold", "queued_ms", "run_ms",
    "updated_at",
)  # fmt: skip

_TABLE = Execution._meta.table_name

Values = tuple[Any, ...]
"""A record as statements take it: the columns in order, times in microseconds, texts that every database holds."""


def values_of(rec: ExecutionRecord) -> Values:
    """A record as statements take it."""
    values: list[Any] = list(rec)
    for place in _TEXTS:
        if values[place] is not None:
            values[place] = storable(values[place])
    values[_CREATED] = clock.to_micros(rec.created_at)
    if rec.updated_at is not None:
        values[_UPDATED] = clock.to_micros(rec.updated_at)
    return tuple(values)


def storable(text: str) -> str:
    """`text` with what no database holds (NUL, lone surrogates) replaced."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode() if _has_surrogate(text) else text
    return text


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def write(records: list[Values]) -> list[bool]:
    """Write a batch's records, on the writer's connection."""
    won = [False] * len(records)
    counts: Counter[tuple[str, int]] = Counter()
    ended: list[str] = []
    for places in _waves(records):
        by_id = {records[place][_ID]: place for place in places}
        for row_id in _upsert([records[place] for place in places]):
            place = by_id[row_id]
            won[place] = True
            values = records[place]
            if values[_STATUS] != ExecutionStatus.RUNNING:
                counts[values[_FUNCTION], values[_VERSION]] += 1
                if not values[_SYNC]:
                    ended.append(row_id)
    add_to_counts(counts)
    callbacks.add(ended)
    return won


def add_to_counts(counts: Counter[tuple[str, int]]) -> None:
    """Add to the counts of functions and versions, where no trigger has done so (see `sqlite_triggers`)."""
    database = engine()
    if database.complete_statements:
        return
    add = 'SET "count" = "count" + %s'
    function = f"UPDATE {Function._meta.table_name} {add} WHERE id = %s"
    version = f"UPDATE {Version._meta.table_name} {add} WHERE function_id = %s AND version_number = %s"
    # In one order: two processes that count the same rows must not wait for each other in a circle. A change of a
    # function locks it before its versions, so functions come first here too.
    for function_id, number in sorted(counts, key=lambda key: (key[1] > 0, *key)):
        count = counts[function_id, number]
        if number == 0:
            database.execute_sql(function, (count, function_id))
        else:
            database.execute_sql(version, (count, function_id, number))


def _waves(records: list[Values]) -> Iterator[list[int]]:
    """Places of records that fit one statement: no id twice, in the order of their coming, not too large."""
    left = list(range(len(records)))
    while left:
        wave: list[int] = []
        later: list[int] = []
        ids: set[str] = set()
        size = 0
        for place in left:
            values = records[place]
            if values[_ID] in ids or len(wave) == _MAX_ROWS or size > MOST_TEXT:
                later.append(place)
            else:
                wave.append(place)
                size += sum(len(values[text] or "") for text in _TEXTS)
            ids.add(values[_ID])
        yield wave
        left = later


def _upsert(rows: list[Values]) -> list[str]:
    """Insert the rows, or end those that are running; ids of those that were written.

    Nearly always all rows are new. Where a statement that fails leaves everything as it was (SQLite), that is tried
    first: every row that RETURNING gives back would cost the writer's thread a turn at the interpreter's lock.
    """
    database = engine()
    values = [value for row in rows for value in row]
    if database.complete_statements:
        with contextlib.suppress(peewee.IntegrityError):
            database.execute_sql(insert_sql(database.param, len(rows)), values)
            return [row[_ID] for row in rows]
    return [row_id for (row_id,) in database.execute_sql(_upsert_sql(database.param, len(rows)), values).fetchall()]


@functools.cache
def insert_sql(param: str, rows: int) -> str:
    """The statement that inserts so many `Values`."""
    row_sql = f"({', '.join([param] * len(_COLUMNS))})"
    return f"INSERT INTO {_TABLE} ({', '.join(_COLUMNS)}) VALUES {', '.join([row_sql] * rows)}"


@functools.cache
def _upsert_sql(param: str, rows: int) -> str:
    return (
        f"{insert_sql(param, rows)} ON CONFLICT (id) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in _ENDED)}"
        f" WHERE {_TABLE}.status = 'running' RETURNING id"
    )
