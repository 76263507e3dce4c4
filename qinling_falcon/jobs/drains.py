"""The RQ jobs that let the drains of worker processes work.

There are as many slots as worker processes. Each slot has one job, which enqueues its successor when it ends. The jobs
of a slot use two ids in turn, because RQ deletes the ended job under its id. `restore` enqueues a job that was lost. A
slot is given up when there are fewer worker processes. RQ counts a killed process until its key has expired and a
maintenance run has removed it. That takes a minute or two, in which there may be a slot too many.
"""

from __future__ import annotations

import time
from typing import Any

from redis import Redis
from rq import Worker
from rq.exceptions import DuplicateJobError

from qinling_falcon.jobs.drain import Drain
from qinling_falcon.jobs.queues import EXECUTIONS, JsonJob, JsonQueue

_RUN_S = 5.0
# A running job reports so often; one that was silent for `_SILENT_S` was lost.
_REPORT_S = 1.0
_SILENT_S = 4.0
_REPORTS = "qf:drains"
_PATH = "qinling_falcon.jobs.drains.run"

_drain: Drain | None = None
_connection: Redis | None = None


def use(drain: Drain, connection: Redis) -> None:
    """Set the drain of this process, and its connection for RQ. RQ passes neither to its jobs."""
    global _drain, _connection
    _drain, _connection = drain, connection


def run(slot: int, turn: int) -> None:
    """Let the drain of this process work for some seconds, and enqueue the next job of the slot."""
    assert _drain is not None
    assert _connection is not None
    until = time.monotonic() + _RUN_S
    try:
        while not _drain.is_stopping and (left_s := until - time.monotonic()) > 0:
            _connection.hset(_REPORTS, str(slot), str(time.time()))
            _drain.run(min(_REPORT_S, left_s))
    finally:
        if slot == 0 or slot < _slots(_connection):
            enqueue(_connection, slot, turn + 1)


def enqueue(connection: Redis, slot: int, turn: int) -> None:
    """Enqueue the job of a slot, unless it is in the queue."""
    job_id = f"drain-{slot}-{turn % 2}"
    try:
        JsonQueue(EXECUTIONS, connection=connection).enqueue_call(
            _PATH, args=(slot, turn), job_id=job_id, unique=True, timeout=-1, result_ttl=0, failure_ttl=60
        )
    except DuplicateJobError:
        return


def restore(connection: Redis) -> list[int]:
    """Enqueue a job for each slot that has none: because there are more worker processes, or because it was lost.

    Returns:
        The slots.
    """
    queued = set(JsonQueue(EXECUTIONS, connection=connection).job_ids)
    reports: Any = connection.hgetall(_REPORTS)
    reported_at = {int(slot): float(at) for slot, at in reports.items()}
    restored = []
    for slot in range(_slots(connection)):
        ids = [f"drain-{slot}-{turn}" for turn in (0, 1)]
        if queued.intersection(ids) or abs(time.time() - reported_at.get(slot, 0.0)) < _SILENT_S:
            continue
        for job_id in ids:  # jobs of a killed process, which RQ believes to run
            connection.delete(JsonJob.key_for(job_id))
        enqueue(connection, slot, 0)
        restored.append(slot)
    return restored


def _slots(connection: Redis) -> int:
    """How many worker processes RQ knows."""
    return int(Worker.count(connection, queue=JsonQueue(EXECUTIONS, connection=connection)))
