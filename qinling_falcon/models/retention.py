"""Retention: deletes old execution records and their logs, by age and by number in each project.

A periodic task of the pool manager calls `prune` every minute. It deletes only executions that have ended, the oldest
first. Several processes may prune at once, because each one deletes only rows that are older than a boundary, and
deletions by another process only move the boundary to older rows.

Other writers never wait long. A transaction deletes as many rows as fit into `_LONGEST_S`, and the pause after it is
three times as long. The file of SQLite does not shrink, but new rows use the freed pages. In PostgreSQL, autovacuum
makes the space usable again.

A deleted execution of a webhook that has failed is remembered while a repeat of its delivery may come (see
`pruned_failures`).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import peewee

from qinling_falcon.models import clock, execution_counters, pruned_failures
from qinling_falcon.models.cooperation import pause
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.scope import Context, Scope, scoped, system
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

FINAL = tuple(status.value for status in ExecutionStatus if status is not ExecutionStatus.RUNNING)

# The target duration of a transaction, because other writers wait for it. Rows can have megabytes of results and logs.
_LONGEST_S = 0.01
_FIRST_BATCH = 20
_LARGEST_BATCH = 200

# Index entries that one query skips. This takes SQLite a millisecond, during which no other greenlet runs.
_LARGEST_STEP = 5_000
_ORDER = (Execution.created_at, Execution.id)

Key = tuple[int, str]
"""The place of an execution in the order of creation: microseconds since the epoch, and its id."""


def warn_if_useless(settings: Settings) -> None:
    """Log a warning if the quota of executions refuses calls before `EXECUTIONS_KEPT` makes room for them.

    This is no error: `EXECUTION_RETENTION_S` and the limits of single projects may make it right.
    """
    if settings.executions_kept and 0 < settings.quota_executions <= settings.executions_kept:
        logger.warning(
            "QUOTA_EXECUTIONS is not above EXECUTIONS_KEPT: calls are refused before old executions are deleted",
            extra={"quota_executions": settings.quota_executions, "executions_kept": settings.executions_kept},
        )


def prune(settings: Settings) -> int:
    """Delete the executions that are too old or too many.

    Args:
        settings: `EXECUTION_RETENTION_S` and `EXECUTIONS_KEPT`.

    Returns:
        The number of deleted executions.

    Raises:
        Unavailable: the database is away; call this again later.
    """
    deletion = _Deletion(settings)
    if settings.execution_retention_s:
        oldest = clock.now() - timedelta(seconds=settings.execution_retention_s)
        scope = system("records of all projects grow old")
        deletion.delete_older(scope, (clock.to_micros(oldest), ""))
    if settings.executions_kept:
        for project_id in _projects():
            scope = scoped(Context(project_id))
            boundary = _nth_newest(scope, settings.executions_kept)
            if boundary is not None:
                deletion.delete_older(scope, boundary)
    return deletion.deleted


class _Deletion:
    """Deletes executions in small transactions.

    Args:
        settings: how long failed executions of webhooks are remembered.

    Attributes:
        deleted: the number of executions deleted so far.
    """

    def __init__(self, settings: Settings) -> None:
        self._longest_key = pruned_failures.longest_key(settings)
        self._oldest_key = clock.to_micros(clock.now() - self._longest_key)
        self._batch = _FIRST_BATCH
        self.deleted = 0

    def delete_older(self, scope: Scope, boundary: Key) -> None:
        """Delete the ended executions of `scope` that come before `boundary`, the oldest first."""
        for status in FINAL:
            # Most executions are kept for longer than the keys of their deliveries, so this costs them nothing.
            may_repeat = status in pruned_failures.FAILED and boundary[0] > self._oldest_key
            old = _ended(scope, status).select(*_ORDER).where(_key() < _value(boundary)).order_by(*_ORDER)
            rows = self._take(old)
            while rows:
                self._delete([row.id for row in rows], self._longest_key if may_repeat else None)
                # Continue after the deleted rows: from the start, PostgreSQL would scan all dead index entries again.
                rows = self._take(old.where(_key() > _value(_key_of(rows[-1]))))

    def _take(self, old: peewee.ModelSelect[Execution]) -> list[Execution]:
        with reading():
            return list(old.limit(self._batch))

    def _delete(self, ids: Sequence[str], remembered_for: timedelta | None) -> None:
        deleted, took_s = transact(functools.partial(_delete, ids, remembered_for))
        self.deleted += deleted
        self._batch = max(1, min(int(len(ids) * _LONGEST_S / took_s), 2 * len(ids), _LARGEST_BATCH))
        time.sleep(3 * took_s)


def _delete(ids: Sequence[str], remembered_for: timedelta | None) -> tuple[int, float]:
    """Delete executions, inside a write transaction.

    Args:
        ids: the executions. Those that run again stay.
        remembered_for: how long failed ones of webhooks are remembered; None: they are not.

    Returns:
        The number of deleted executions and the duration in seconds, without the wait for other writers.
    """
    started = time.monotonic()
    if remembered_for is not None:
        pruned_failures.remember(ids, remembered_for, clock.now())
    ended = Execution.id.in_(ids) & Execution.status.in_(FINAL)
    asynchronous = Execution.delete().where(ended & ~Execution.sync).execute()
    execution_counters.count(deleted=asynchronous)
    deleted = asynchronous + Execution.delete().where(ended).execute()
    return int(deleted), max(time.monotonic() - started, 0.0001)


def _projects() -> Iterator[str]:
    """Yield all projects that have executions. One index lookup finds each."""
    select = system("each project keeps so many").executions().select(Execution.project_id)
    select = select.order_by(Execution.project_id).limit(1)
    with reading():
        row = select.get_or_none()
    while row is not None:
        yield row.project_id
        with reading():
            row = select.where(Execution.project_id > row.project_id).get_or_none()
        pause()


def _nth_newest(scope: Scope, count: int) -> Key | None:
    """The `count`-th newest of the ended executions of a project; None if the project has fewer.

    The index has one sorted list for each status. This selects from the sorted lists in rounds:

    1. `step` is the number of entries still wanted, divided by the number of lists.
    2. In each list, look at the entry `step` places further on.
    3. Find the list whose entry is the newest. Take its `step` entries. They are among the wanted ones, because in each
       list at most `step` entries are that new.

    The number of queries grows with the logarithm of `count`. The number of index entries that are skipped grows with
    `count`, not with the number of rows.
    """
    taken: dict[str, Key | None] = dict.fromkeys(FINAL)
    wanted = count
    while wanted:
        step = max(1, min(wanted // len(FINAL), _LARGEST_STEP))
        found = {status: key for status in FINAL if (key := _further(scope, status, taken[status], step)) is not None}
        if not found:
            return None  # all lists together have fewer entries than wanted
        newest = max(found, key=lambda status: found[status])
        taken[newest] = found[newest]
        wanted -= step
        pause()
    return min(key for key in taken.values() if key is not None)


def _further(scope: Scope, status: str, after: Key | None, step: int) -> Key | None:
    """The entry of a status `step` places after `after` (None: from the start), in the order from the newest."""
    select = _ended(scope, status)
    if after is not None:
        select = select.where(_key() < _value(after))
    select = select.select(Execution.created_at, Execution.id).order_by(*(column.desc() for column in _ORDER))
    with reading():
        row = select.offset(step - 1).first()  # `get` would begin at the first row
    return None if row is None else _key_of(row)


def _ended(scope: Scope, status: str) -> peewee.ModelSelect[Execution]:
    return scope.executions().where(Execution.status == status)


def _key_of(row: Execution) -> Key:
    return clock.to_micros(row.created_at), row.id


def _key() -> Any:
    return peewee.Tuple(*_ORDER)


def _value(key: Key) -> Any:
    # peewee does not convert the values inside a tuple to the types of the compared columns.
    return peewee.Tuple(*(peewee.Value(part, converter=False) for part in key))
