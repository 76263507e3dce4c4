"""Failed executions of webhooks that retention has deleted: a repeat of their deliveries runs the function.

The id of a delivery is an idempotency key that can outlast the row of its execution. A repeat that finds the key
without a row must not run the function, because it may have succeeded, or the owner may have deleted the row. So
retention remembers the executions that have failed, in the transaction that deletes them (`remember`). A repeat that
finds no row asks whether its execution is one of them (`is_remembered`).

An execution is remembered as a row of `idempotency_keys`, under a name made of its id. It is found by the primary key,
because an index over the executions of all keys would make each delivery slower. It expires no earlier than the key of
the delivery, and `idempotency.prune` deletes it.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection
from datetime import timedelta

from qinling_falcon.models import clock
from qinling_falcon.models.database import engine, placeholders, reading
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution
from qinling_falcon.models.webhook import LONGEST_TOLERANCE_S
from qinling_falcon.settings import Settings

FAILED = (ExecutionStatus.FAILED.value, ExecutionStatus.ERROR.value, ExecutionStatus.DEAD.value)
"""The states in which a repeated delivery runs its function again."""

# No header `Idempotency-Key` and no id of a delivery makes such a name.
_NAME = "failed·"


def longest_key(settings: Settings) -> timedelta:
    """How long the key of a delivery lasts, at most: signed timestamps may be accepted for longer than the setting."""
    return timedelta(seconds=max(settings.idempotency_ttl_s, 2 * LONGEST_TOLERANCE_S))


def remember(ids: Collection[str], lasts: timedelta, now: datetime.datetime) -> None:
    """Remember those of these executions that are of webhooks, have failed, and may still have a key.

    It is called inside the write transaction that then deletes them.

    Args:
        ids: some hundreds of executions, at most.
        lasts: how long they are remembered. Older executions are not remembered.
        now: the present.
    """
    database = engine()
    # All rows are locked first, so that none is queued again, and fails again, between this and its deletion. SQLite
    # has one writer at a time. PostgreSQL finds the rows of the WITH clause by their ids. In one SELECT with the other
    # conditions, it would search the index over status and time.
    lock = "FOR UPDATE" if database.for_update else ""
    database.execute_sql(
        "WITH batch AS (SELECT id, project_id, status, webhook_id, created_at"
        f" FROM {Execution._meta.table_name} WHERE id IN ({placeholders(ids)}) {lock})"
        f" INSERT INTO {IdempotencyKey._meta.table_name}"
        " (project_id, idempotency_key, digest, execution_id, claimed_until, expires_at)"
        f" SELECT project_id, {database.param} || id, '', id, 0, {database.param}"
        f" FROM batch WHERE status IN ({placeholders(FAILED)}) AND webhook_id IS NOT NULL"
        f" AND created_at > {database.param}"
        # The row of a lost process may be written again after its deletion, and is deleted again then.
        " ON CONFLICT DO NOTHING",
        (*ids, _NAME, clock.to_micros(now + lasts), *FAILED, clock.to_micros(now - lasts)),
    )


def is_remembered(project_id: str, execution_id: str, now: datetime.datetime) -> bool:
    """Whether an execution without a row has failed, and was deleted by retention.

    Raises:
        Unavailable: see `reading`.
    """
    found = IdempotencyKey.select(IdempotencyKey.execution_id).where(
        IdempotencyKey.project_id == project_id,
        IdempotencyKey.idempotency_key == _NAME + execution_id,
        IdempotencyKey.expires_at > clock.to_micros(now),
    )
    with reading():
        return found.first() is not None
