"""Idempotency keys: claim, begin, accept, release, find, prune.

A key belongs to the project that has sent it, and stands for one execution. It is in one of two states:

1. Claimed: a process has claimed it for a synchronous execution that has no row yet. The claim ends at `claimed_until`,
   and the process extends it while the call waits for a worker. If the process dies, another request may take the key
   over when the claim has ended.
2. Bound: its execution has, or had, a row. `claimed_until` is 0. A key is bound in the same transaction that writes the
   row (`begin`, `accept`), and only by the request that has claimed it. A function therefore runs for one request of
   a key at most, also if a process was only slow and its claim was taken over.

An expired key counts as absent, before `prune` deletes it.
"""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import peewee

from qinling_falcon.models import clock, execution_queue, keyed_rows
from qinling_falcon.models.database import engine, placeholders, reading, transact, transact_grouped
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.keyed_rows import COLUMNS, OVERWRITE
from qinling_falcon.models.records import PLACE, ExecutionRecord, Values, values_of, write
from qinling_falcon.models.scope import WITHOUT_LOG
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution

_TABLE = IdempotencyKey._meta.table_name
_EXECUTIONS = Execution._meta.table_name
_ID, _PROJECT, _CREATED = PLACE["id"], PLACE["project_id"], PLACE["created_at"]
# Other writers wait for a transaction, so it deletes only so many keys. The pause after it is three times as long.
_BATCH = 200


@dataclass(frozen=True, slots=True)
class KeyClaim:
    """A request's claim of a key, with the id that its execution will have.

    Attributes:
        project_id: the caller's project.
        key: the key.
        digest: what a repeat must have in common with the first request: the SHA-256 of the request as hexadecimal
            digits, or a constant.
        execution_id: the id that the execution will have.
        created_at: when the execution was requested.
        expires_at: from when on the key counts as absent.
        instead_of: the execution without a row whose claim is taken over; None: the key is expected to be absent.
    """

    project_id: str
    key: str
    digest: str
    execution_id: str
    created_at: datetime.datetime
    expires_at: datetime.datetime
    instead_of: str | None = None


class FoundKey(NamedTuple):
    """A key that has not expired.

    Attributes:
        digest: as in `KeyClaim`.
        execution_id: its execution.
        claimed_until: when its claim ends; None: it is bound.
        execution: the row of its execution, without the log; None: it has no row yet, or was deleted.
    """

    digest: str
    execution_id: str
    claimed_until: datetime.datetime | None
    execution: Execution | None


def find(project_id: str, key: str, now: datetime.datetime) -> FoundKey | None:
    """Find a key and its execution, both as of the same moment; None: the key is unknown or has expired.

    Raises:
        Unavailable: see `reading`.
    """
    rows = (
        IdempotencyKey.select(IdempotencyKey, *WITHOUT_LOG)
        .join(
            Execution,
            peewee.JOIN.LEFT_OUTER,
            on=(Execution.id == IdempotencyKey.execution_id),
            attr="execution",
        )
        .where(_is(project_id, key), IdempotencyKey.expires_at > clock.to_micros(now))
    )
    with reading():
        row = rows.first()
    if row is None:
        return None
    claimed_until = clock.from_micros(row.claimed_until) if row.claimed_until else None
    return FoundKey(row.digest, row.execution_id, claimed_until, row.execution)


def claim(wanted: KeyClaim, now: datetime.datetime, until: datetime.datetime) -> bool:
    """Claim a key for an execution that gets its row later (`begin`); durable on return.

    Args:
        wanted: the claim.
        now: the present.
        until: when the claim ends.

    Returns:
        Whether the key is claimed now; False: another request has it.

    Raises:
        Unavailable: see `transact`.
    """
    return transact(lambda: _claim(wanted, clock.to_micros(now), clock.to_micros(until)))


def accept(wanted: KeyClaim, record: ExecutionRecord) -> bool:
    """Accept an asynchronous execution (see `execution_queue.accept`) and bind its key, both or none.

    It writes without a look at the key before, many keys at a time. A key that is claimed or bound stays as it is.

    Returns:
        Whether both were written; False: another request has the key, and nothing was accepted.

    Raises:
        Unavailable: see `transact`.
    """
    keyed = _Keyed(wanted.key, wanted.digest, clock.to_micros(wanted.expires_at), values_of(record))
    won: bool = transact_grouped(keyed, _accept, in_halves=True, size=len(record.input or ""))
    return won


def begin(claimed: KeyClaim, record: ExecutionRecord) -> bool:
    """Write the row of an execution that begins, and bind its key, in one transaction. It may be called again.

    Args:
        claimed: the claim of the key.
        record: the execution.

    Returns:
        Whether the function may run; False: another request has taken the key over, or the key is gone.

    Raises:
        Unavailable: see `transact`.
    """

    def begin_both() -> bool:
        # In PostgreSQL this locks the key until the commit, so that it is not taken over meanwhile.
        if not IdempotencyKey.update(claimed_until=0).where(_is_of(claimed)).execute():
            return False
        write([values_of(record._replace(status=ExecutionStatus.RUNNING.value))])
        return True

    return transact(begin_both)


def extend(claims: Collection[KeyClaim], until: datetime.datetime) -> None:
    """Let the claims of keys that are not bound yet end later.

    Raises:
        Unavailable: see `transact`.
    """

    def write_all() -> None:
        for claimed in claims:
            IdempotencyKey.update(claimed_until=clock.to_micros(until)).where(
                _is_of(claimed), IdempotencyKey.claimed_until > 0
            ).execute()

    transact(write_all)


def release(claims: Collection[KeyClaim]) -> None:
    """Delete keys whose functions have not run, with the rows of their executions. Keys of other claims stay.

    Raises:
        Unavailable: see `transact`. It is safe to call again.
    """

    def delete_all() -> None:
        for claimed in claims:
            if IdempotencyKey.delete().where(_is_of(claimed)).execute():
                Execution.delete().where(
                    Execution.id == claimed.execution_id, Execution.status == ExecutionStatus.RUNNING
                ).execute()

    transact(delete_all)


def forget(project_id: str, key: str, execution_id: str) -> None:
    """Delete a key that stands for this execution, so that the next request with it counts as the first.

    Raises:
        Unavailable: see `transact`. It is safe to call again.
    """
    mine = _is(project_id, key) & (IdempotencyKey.execution_id == execution_id)
    transact(lambda: IdempotencyKey.delete().where(mine).execute())


def forget_claim(project_id: str, key: str, execution_id: str, now: datetime.datetime) -> bool:
    """Delete a key whose claim for this execution has ended without a row. Its process can't bind it any more.

    Returns:
        Whether the key was deleted; False: it was extended, bound or taken over.

    Raises:
        Unavailable: see `transact`. It is safe to call again.
    """
    ended = IdempotencyKey.claimed_until.between(1, clock.to_micros(now))
    mine = _is(project_id, key) & (IdempotencyKey.execution_id == execution_id) & ended
    # The execution may have been recorded as lost, or cancelled, without having begun.
    no_row = ~peewee.fn.EXISTS(Execution.select(Execution.id).where(Execution.id == execution_id))
    return bool(transact(lambda: IdempotencyKey.delete().where(mine, no_row).execute()))


def prune(now: datetime.datetime) -> int:
    """Delete the expired keys, in small transactions with pauses. Returns their number.

    Raises:
        Unavailable: the database is away; call this again later.
    """
    deleted = 0
    while True:
        found, took_s = transact(functools.partial(_prune, clock.to_micros(now)))
        deleted += found
        if found < _BATCH:
            return deleted
        time.sleep(3 * took_s)


def _claim(wanted: KeyClaim, now: int, until: int) -> bool:
    """Insert a key, or overwrite one that has expired or is taken over, inside a write transaction."""
    param = engine().param
    statement = (
        f"INSERT INTO {_TABLE} ({', '.join(COLUMNS)}) VALUES ({placeholders(COLUMNS)})"
        f" {OVERWRITE} WHERE {_TABLE}.expires_at <= {param}"
        f" OR ({_TABLE}.execution_id = {param} AND {_TABLE}.claimed_until BETWEEN 1 AND {param}"
        # The execution may have been recorded as lost, or cancelled, without having begun.
        f" AND NOT EXISTS (SELECT 1 FROM {_EXECUTIONS} WHERE {_EXECUTIONS}.id = {_TABLE}.execution_id))"
    )
    values = (
        wanted.project_id,
        wanted.key,
        wanted.digest,
        wanted.execution_id,
        until,
        clock.to_micros(wanted.expires_at),
    )
    written: int = engine().execute_sql(statement, (*values, now, wanted.instead_of or "", now)).rowcount
    return written == 1


class _Keyed(NamedTuple):
    """An execution that is to be accepted, and its key."""

    key: str
    digest: str
    expires_at: int
    values: Values


def _accept(batch: list[_Keyed]) -> list[bool]:
    """Accept a batch. If a key occurs several times in it, one of them wins."""
    accepted = _accepted_in_sqlite(batch) if engine().complete_statements else _accepted(batch)
    return [one.values[_ID] in accepted for one in batch]


def _accepted_in_sqlite(batch: list[_Keyed]) -> set[str]:
    """Accept a batch with one statement (see `keyed_rows`). Returns the executions that were accepted."""
    database = engine()
    values = [part for one in batch for part in (*one.values, one.key, one.digest, one.expires_at)]
    database.execute_sql(keyed_rows.insert_sql(ExecutionRecord._fields, len(batch)), values)
    # As one row, because the writer's thread waits for the interpreter's lock for each.
    (accepted,) = database.execute_sql(
        f"SELECT group_concat(id) FROM {_EXECUTIONS} WHERE id IN ({placeholders(batch)})",
        [one.values[_ID] for one in batch],
    ).fetchone()
    return set((accepted or "").split(","))


def _accepted(batch: list[_Keyed]) -> set[str]:
    """Accept a batch inside a write transaction. Returns the executions that were accepted."""
    # One of each key, because a statement changes no row twice; in one order, so that two processes with the same keys
    # do not wait for each other in a circle.
    by_key = {(one.values[_PROJECT], one.key): one for one in reversed(batch)}
    first = [by_key[key] for key in sorted(by_key)]
    row = f"({placeholders(COLUMNS)})"
    rows = engine().execute_sql(
        f"INSERT INTO {_TABLE} ({', '.join(COLUMNS)}) VALUES {', '.join([row] * len(first))}"
        f" {OVERWRITE} WHERE {_TABLE}.expires_at <= %s RETURNING execution_id",
        [
            *(part for one in first for part in
              (one.values[_PROJECT], one.key, one.digest, one.values[_ID], 0, one.expires_at)),
            min(one.values[_CREATED] for one in first),
        ],
    ).fetchall()  # fmt: skip
    accepted = {execution_id for (execution_id,) in rows}
    if accepted:
        execution_queue.insert([one.values for one in first if one.values[_ID] in accepted])
    return accepted


def _prune(now: int) -> tuple[int, float]:
    """Delete a batch of expired keys. Returns their number and the duration in seconds, without the wait for others."""
    started = time.monotonic()
    param = engine().param
    deleted: int = (
        engine()
        .execute_sql(
            f"DELETE FROM {_TABLE} WHERE (project_id, idempotency_key) IN"
            f" (SELECT project_id, idempotency_key FROM {_TABLE} WHERE expires_at <= {param} LIMIT {_BATCH})"
            # Looked at again, because a request may have claimed the key since the inner query.
            f" AND expires_at <= {param}",
            (now, now),
        )
        .rowcount
    )
    return deleted, time.monotonic() - started


def _is_of(claimed: KeyClaim) -> peewee.Expression:
    return _is(claimed.project_id, claimed.key) & (IdempotencyKey.execution_id == claimed.execution_id)


def _is(project_id: str, key: str) -> peewee.Expression:
    return (IdempotencyKey.project_id == project_id) & (IdempotencyKey.idempotency_key == key)
