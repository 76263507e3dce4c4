"""Counts asynchronous executions and their callbacks. An operator can check that no execution was lost.

At any time, accepted = final + in flight + deleted. The counters change in the transactions of the executions. One row
would be hot, so each process changes one of `engines.base.SHARDS` rows. It draws the row, because process ids are often
the same in all containers. In SQLite triggers change the counters (see `sqlite_triggers`).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from qinling_falcon.models.database import engine, reading


class Counters(NamedTuple):
    """The numbers of asynchronous executions.

    Attributes:
        accepted: all that were ever accepted.
        final: those that have ended and are stored.
        in_flight: those that are queued or run.
        deleted: those whose records were deleted.
    """

    accepted: int
    final: int
    in_flight: int
    deleted: int


class CallbackCounters(NamedTuple):
    """The numbers of callbacks.

    Attributes:
        delivered: those that were delivered.
        retried: attempts that have failed and were followed by another one.
        dropped: those that were given up.
        queued: those that are due now, wait for their next attempt, or are being delivered.
    """

    delivered: int
    retried: int
    dropped: int
    queued: int


def shard() -> int:
    """The row of this process."""
    return engine().shard


def count(*, accepted: int = 0, ended: int = 0, deleted: int = 0) -> None:
    """Add to the counters, on the writer's connection in its transaction, where no trigger does so.

    Args:
        accepted: how many executions were accepted.
        ended: how many have ended, less those that were queued again after their end.
        deleted: how many records of ended executions were deleted.
    """
    database = engine()
    if not database.complete_statements and (accepted or ended or deleted):
        database.execute_sql(
            "UPDATE execution_counters SET accepted = accepted + %s, ended = ended + %s, deleted = deleted + %s"
            " WHERE shard = %s",
            (accepted, ended, deleted, shard()),
        )


def count_strays(removed: int, gone: int) -> None:
    """Count executions whose rows in the queue were deleted although they have not ended (see `strays`).

    Some of them may not have been counted as accepted, or may have been counted as ended. So this counts just
    so many as ended that the counters match the number of rows in the queue.

    Args:
        removed: how many rows were deleted.
        gone: how many of the executions have no record.
    """
    database = engine()
    accepted, ended, in_flight = database.execute_sql(
        "SELECT SUM(accepted), SUM(ended), (SELECT COUNT(*) FROM execution_queue) FROM execution_counters"
    ).fetchone()
    missing = min(removed, int(accepted) - int(ended) - int(in_flight))
    if missing > 0:
        database.execute_sql(
            f"UPDATE execution_counters SET ended = ended + {missing}, deleted = deleted + {min(gone, missing)}"
            f" WHERE shard = {shard()}"
        )


def read() -> Counters:
    """The counters of all processes, and the length of the queue, all of one moment.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        accepted, ended, deleted, in_flight = engine().execute_sql(
            "SELECT SUM(accepted), SUM(ended), SUM(deleted), (SELECT COUNT(*) FROM execution_queue)"
            " FROM execution_counters"
        ).fetchone()
    return Counters(int(accepted), int(ended) - int(deleted), int(in_flight), int(deleted))


def count_callback(outcome: Literal["delivered", "retried", "dropped"]) -> None:
    """Count an attempt to deliver a callback, on the writer's connection in its transaction."""
    engine().execute_sql(
        f"UPDATE execution_counters SET callbacks_{outcome} = callbacks_{outcome} + 1 WHERE shard = {shard()}"
    )


def read_callbacks() -> CallbackCounters:
    """The counters of callbacks of all processes, and the number of callbacks that are queued, all of one moment.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        row = engine().execute_sql(
            "SELECT SUM(callbacks_delivered), SUM(callbacks_retried), SUM(callbacks_dropped),"
            " (SELECT COUNT(*) FROM callbacks) FROM execution_counters"
        ).fetchone()
    return CallbackCounters(*(int(number) for number in row))
