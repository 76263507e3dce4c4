"""The queue of asynchronous executions: accept, claim, postpone, cancel. `execution_ends` has the ends.

An execution that was accepted has a row in `executions` with status `running`, and one in `execution_queue` until it
ends. Each change of both rows is one transaction. There are three cases when a process dies:

1. After `accept`: the execution is queued. The sweep finds its row (`unclaimed`), also if it is in no ready set.
2. After `claim`: the claim ends at `claimed_until`. Then the sweep finds the row, and the next claim has the next
   number.
3. After `postpone` or `give_back`: the execution is queued again. The sweep finds its row.

Each claim of an execution has a number. Each change passes the number of its claim, and changes nothing if a later
claim exists. The attempt is counted separately, because users see it: a claim whose function has not begun to run is
given back and does not count as an attempt.
"""

from __future__ import annotations

import datetime
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from qinling_falcon.models import clock, execution_counters, strays
from qinling_falcon.models.database import engine, placeholders, reading, transact, transact_grouped
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.records import (
    PLACE,
    ExecutionRecord,
    Values,
    add_to_counts,
    insert_sql,
    storable,
    values_of,
)
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution

logger = logging.getLogger(__name__)

_EXECUTIONS = Execution._meta.table_name
_QUEUE = QueuedExecution._meta.table_name
_QUEUED = tuple(PLACE[name] for name in ("id", "project_id", "function_id", "created_at"))
# Redis has decided by its own clock that an execution is due. The clock of this machine may be behind by this time.
_CLOCKS_DIFFER_US = 1_000_000


class ClaimedExecution(NamedTuple):
    """An execution that this process has claimed, with what is needed to run it.

    Attributes:
        claim: the number of the claim. After a retry the numbers start at a random one (see `execution_retries`).
        attempt: how often the function may have been started, this claim included.
        failures: how many attempts are known to have failed.
        since: when a user had it retried, in microseconds since the epoch; 0: not since it was accepted.
        due_at: from when on it has waited for this attempt, in microseconds since the epoch: since it was accepted or
            retried, or since the pause after the last attempt was over, or since the claim of a lost process ended.
        Further attributes: as in `ExecutionRecord`.
    """

    id: str
    project_id: str
    claim: int
    attempt: int
    failures: int
    since: int
    function_id: str
    function_version: int
    function_alias: str | None
    description: str | None
    input: str | None
    source: str
    created_at: datetime.datetime
    webhook_id: str | None
    job_id: str | None
    request_id: str | None
    due_at: int = 0


class Queued(NamedTuple):
    """An execution that no process has claimed.

    Attributes:
        not_before: when it may be claimed, in microseconds since the epoch.
    """

    id: str
    project_id: str
    function_id: str
    not_before: int


def accept(record: ExecutionRecord) -> None:
    """Write the row of an execution that will run later, and its row in the queue; durable on return.

    Args:
        record: the execution, with status `running` and attempt 0.

    Raises:
        Unavailable: see `transact`.
    """
    transact_grouped(values_of(record), insert, in_halves=True, size=len(record.input or ""))


def insert(records: list[Values]) -> list[None]:
    """Insert accepted executions and their rows in the queue, inside a write transaction.

    In SQLite a trigger fills the queue (see `sqlite_triggers`).
    """
    database = engine()
    database.execute_sql(insert_sql(database.param, len(records)), [value for values in records for value in values])
    if not database.complete_statements:
        row = f"({', '.join([database.param] * 4)})"
        database.execute_sql(
            f"INSERT INTO {_QUEUE} (id, project_id, function_id, not_before) VALUES {', '.join([row] * len(records))}",
            [values[place] for values in records for place in _QUEUED],
        )
        execution_counters.count(accepted=len(records))
    return [None] * len(records)


def claim(ids: Collection[str], now: datetime.datetime, until: datetime.datetime) -> list[ClaimedExecution]:
    """Claim those of the executions that are due and not claimed; durable on return.

    Args:
        ids: the executions, at most some hundreds.
        now: the present.
        until: when the claim ends.

    Returns:
        The claimed executions, in the order in which they were accepted.

    Raises:
        Unavailable: see `transact`.
    """
    if not ids:
        return []
    claimed, strays_count = transact(lambda: _claim(ids, clock.to_micros(now), clock.to_micros(until)))
    if strays_count:
        logger.warning("rows of the queue were deleted whose executions do not run", extra={"count": strays_count})
    return claimed


def extend(claims: Mapping[str, int], until: datetime.datetime) -> set[str]:
    """Let claims end later.

    Args:
        claims: the numbers of the claims, by execution.
        until: when they end.

    Returns:
        The executions whose claim was extended. Any other one has ended, was given back, or was claimed again.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> set[str]:
        # The claim of an execution that was given back a moment ago has ended already.
        claimed = QueuedExecution.id.in_(list(claims)) & (QueuedExecution.claimed_until > 0)
        rows = QueuedExecution.select(QueuedExecution.id, QueuedExecution.claim).where(claimed)
        if engine().for_update:
            rows = rows.order_by(QueuedExecution.id).for_update()
        mine = {row.id for row in rows if row.claim == claims[row.id]}
        if mine:
            QueuedExecution.update(claimed_until=clock.to_micros(until)).where(QueuedExecution.id.in_(mine)).execute()
        return mine

    return transact(write) if claims else set()


def postpone(record: ExecutionRecord, claim: int, not_before: datetime.datetime, failures: int | None = None) -> bool:
    """Queue a claimed execution again after an attempt; durable on return.

    Args:
        record: what the row shows meanwhile: status `running`, with the reason and the log of the attempt.
        claim: the number of the claim.
        not_before: when the next attempt may start.
        failures: how many attempts are known to have failed now; None: as many as before.

    Returns:
        Whether it is queued now; False: it has ended, was claimed again, or is gone.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> bool:
        changes = {} if failures is None else {"failures": failures}
        if not _queue_again(record.id, claim, not_before, due_at=clock.to_micros(not_before), **changes):
            return False
        shown = {
            "attempt": record.attempt,
            "status_reason": storable(record.status_reason or ""),
            "log": storable(record.log or ""),
            "updated_at": record.updated_at,
        }
        Execution.update(**shown).where(Execution.id == record.id).execute()
        return True

    return transact(write)


def give_back(execution_id: str, claim: int, not_before: datetime.datetime, *, was_started: bool) -> bool:
    """Queue a claimed execution again, because it was not run, or was interrupted; durable on return.

    Args:
        execution_id: the execution.
        claim: the number of the claim.
        not_before: when the next attempt may start.
        was_started: whether the function may have begun to run, so that the attempt counts.

    Returns:
        Whether it is queued now; False: it has ended, was claimed again, or is gone.

    Raises:
        Unavailable: see `transact`.
    """
    changes = {"due_at": clock.to_micros(not_before)} if was_started else {"attempt": QueuedExecution.attempt - 1}
    return transact(lambda: _queue_again(execution_id, claim, not_before, **changes))


def cancel(execution: ClaimedExecution | Execution, reason: str, result: str | None = None) -> bool:
    """End an execution that is queued or runs, with status `cancelled`; durable on return.

    The claim of a process that runs it is void: its record changes nothing any more.

    Args:
        execution: the execution, which the caller may cancel.
        reason: why, for people.
        result: its result, as JSON text.

    Returns:
        Whether it is cancelled now; False: it had ended before, or has no row.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> bool:
        # In the order in which ends lock the rows, so that no deadlock occurs. Without the lock, PostgreSQL could
        # commit a claim after this has read the attempt.
        select = QueuedExecution.select(QueuedExecution.attempt).where(QueuedExecution.id == execution.id)
        queued = (select.for_update() if engine().for_update else select).first()
        was_queued: int = QueuedExecution.delete().where(QueuedExecution.id == execution.id).execute()
        changes: dict[str, Any] = {} if queued is None else {"attempt": queued.attempt}
        ended = (
            Execution.update(
                status=ExecutionStatus.CANCELLED.value, status_reason=reason, result=result, updated_at=clock.now(),
                log="", **changes,
            )
            .where(Execution.id == execution.id, Execution.status == ExecutionStatus.RUNNING)
            .execute()
        )
        if not ended:
            return False
        execution_counters.count(ended=was_queued)  # 0: the execution is synchronous
        add_to_counts(Counter({(execution.function_id, execution.function_version): 1}))
        return True

    return transact(write)


def attempt_of(execution_id: str) -> int | None:
    """How often the function of a queued execution may have been started; None: the execution is not in the queue."""
    with reading():
        row = QueuedExecution.select(QueuedExecution.attempt).where(QueuedExecution.id == execution_id).first()
    return None if row is None else row.attempt


def is_claimed(execution_id: str, claim: int) -> bool:
    """Whether this claim of an execution is valid: it was not given back, and the execution has no later claim."""
    with reading():
        row = QueuedExecution.select().where(QueuedExecution.id == execution_id).first()
    return row is not None and row.claim == claim and row.claimed_until > 0


def due_at(execution_id: str) -> datetime.datetime | None:
    """From when on a claimed execution has waited for its attempt; None: since it was accepted, or it has ended."""
    with reading():
        select = QueuedExecution.select(QueuedExecution.due_at, QueuedExecution.since)
        row = select.where(QueuedExecution.id == execution_id).first()
    micros = 0 if row is None else row.due_at or row.since
    return clock.from_micros(micros) if micros else None


def check() -> None:
    """Check that the database answers.

    Raises:
        Unavailable: it does not.
    """
    with reading():
        QueuedExecution.select(QueuedExecution.id).first()


def unclaimed(after: str, now: datetime.datetime, most: int) -> tuple[list[Queued], str | None]:
    """The executions without a live claim, in the order of their ids.

    Args:
        after: the last id that was looked at before; '' for the first page.
        now: the present. With a time in the past, claims that have ended since then count as live.
        most: how many rows of the queue are looked at.

    Returns:
        The executions of the page, and the last id of the page; None: it was the last page.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        rows = list(QueuedExecution.select().where(QueuedExecution.id > after).order_by(QueuedExecution.id).limit(most))
    micros = clock.to_micros(now)
    found = [
        Queued(row.id, row.project_id, row.function_id, _not_before(row)) for row in rows if row.claimed_until <= micros
    ]
    return found, rows[-1].id if len(rows) == most else None


def _not_before(row: QueuedExecution) -> int:
    """When an execution may be claimed. One that was never claimed is due, see `_claim`."""
    return row.not_before if row.claim else min(row.not_before, clock.to_micros(clock.wall()))


def _queue_again(execution_id: str, claim: int, not_before: datetime.datetime, **changes: Any) -> bool:
    """End a claim. A claim that has been ended before is left as it is, so it is safe to call this again."""
    changed: int = (
        QueuedExecution.update(claimed_until=0, not_before=clock.to_micros(not_before), **changes)
        .where(
            QueuedExecution.id == execution_id, QueuedExecution.claim == claim, QueuedExecution.claimed_until > 0
        )
        .execute()
    )
    return changed == 1


def _claim(ids: Collection[str], now: int, until: int) -> tuple[list[ClaimedExecution], int]:
    """Claim executions. Returns also how many rows were deleted whose executions do not run."""
    database = engine()
    marks = placeholders(ids)
    columns = ", ".join(_OF_QUEUE.get(name, f"e.{name}") for name in _CLAIMED)
    lock = "" if database.complete_statements else " FOR UPDATE OF q SKIP LOCKED"
    # An execution that was never claimed is due. Its `not_before` may be in the future: if the machine's clock is set
    # back, the process that has accepted it goes on from the time before (see `clock.now`).
    found = database.execute_sql(
        f"SELECT {columns} FROM {_QUEUE} q JOIN {_EXECUTIONS} e ON e.id = q.id WHERE q.id IN ({marks})"
        f" AND q.claimed_until <= {database.param} AND (q.claim = 0 OR q.not_before <= {database.param})"
        " AND e.status = 'running'"
        f" ORDER BY q.id{lock}",
        (*ids, now, now + _CLOCKS_DIFFER_US),
    ).fetchall()
    if found:
        marks = placeholders(found)
        database.execute_sql(
            f"UPDATE {_QUEUE} SET claim = claim + 1, attempt = attempt + 1, due_at = {_DUE_AT.format('')},"
            f" claimed_until = {database.param} WHERE id IN ({marks})",
            (until, *(row[0] for row in found)),
        )
    strays_count = 0 if len(found) == len(ids) else strays.delete(set(ids).difference(row[0] for row in found))
    return [_claimed(row) for row in found], strays_count


def _claimed(row: Sequence[Any]) -> ClaimedExecution:
    claimed = ClaimedExecution(*row)
    created_at = row[_CLAIMED.index("created_at")]
    return claimed._replace(
        claim=claimed.claim + 1,
        attempt=claimed.attempt + 1,
        due_at=claimed.due_at or claimed.since or created_at,
        created_at=clock.from_micros(created_at),
    )


_CLAIMED = ClaimedExecution._fields
# If the last claim of an execution was not given back, it has expired at `claimed_until`. The execution has been due
# since then.
_DUE_AT = "CASE WHEN {0}claimed_until > 0 THEN {0}claimed_until ELSE {0}due_at END"
_OF_QUEUE = {name: f"q.{name}" for name in ("claim", "attempt", "failures", "since")} | {"due_at": _DUE_AT.format("q.")}
