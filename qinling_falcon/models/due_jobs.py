"""Fires due jobs: moves each one to its next time and inserts its execution, in one transaction.

The row of a job has its next time, and nothing else decides when it fires. `find` reads due jobs, and `fire` changes
them. Between the two, the caller computes the next times and looks for room in quotas, so that no other writer waits
for that. `fire` locks the rows and reads them again. So a job that was changed meanwhile, or that another process has
fired, is left alone.

A process may die at any point. Before the commit, the jobs are still due. After it, they have moved on, and their
executions are queued; the sweep adds those to the ready sets that were not added.

The id of an execution is made from its job and the due time, so no job can have two executions for one time, even if
its row is set back.

If a project has no room for an execution, what happens depends on the job's `misfire`:

1. `run_once`: the job moves to a later time, at which it is tried again.
2. `skip`: the job stays due, because its lateness counts from its due time. It is tried again every two seconds,
   until there is room, its next time comes, or it is later than the grace allows and so has missed its time.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import peewee

from qinling_falcon.models import clock, execution_queue
from qinling_falcon.models.alias import draw_version
from qinling_falcon.models.database import engine, placeholders, reading, transact
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.records import ExecutionRecord, values_of
from qinling_falcon.models.scope import system
from qinling_falcon.models.states import ExecutionStatus, JobStatus, Misfire, Overlap
from qinling_falcon.models.tables import Alias, Execution, Job

_JOBS = Job._meta.table_name
_ALIASES = Alias._meta.table_name
_SECOND_US = 1_000_000
# A job without a next time from its pattern is tried again after this time. So is a `run_once` job without room, unless
# its next time comes first.
_RETRY_LATER = datetime.timedelta(minutes=1)
# The interval at which a `skip` job without room is tried again.
_ROOM_RETRY_US = 2 * _SECOND_US
_Aliases = Mapping[tuple[str, str], tuple[str, int, tuple[int, float] | None]]


class Skip(StrEnum):
    """Why a job did not fire at a due time. It uses none of its `count`."""

    MISFIRE = "misfire"  # too late, and the job asks to skip such times
    OVERLAP = "overlap"  # its last execution has not ended
    ROOM = "room"  # the project's quota of executions or its queue is full
    TARGET = "target"  # its alias is gone
    UNREADABLE = "unreadable"  # its pattern or its time zone is unknown to this release
    REPEATED = "repeated"  # this time has an execution already


class DueJob(NamedTuple):
    """A job that is due.

    Attributes:
        input_size: the length of its input in bytes.
    """

    id: str
    project_id: str
    pattern: str | None
    timezone: str
    input_size: int
    next_execution_time: datetime.datetime


@dataclass(frozen=True, slots=True)
class Plan:
    """What must be known before jobs are fired.

    Attributes:
        now: the present.
        grace: a job that is later than this has missed its time.
        next_times: by pattern and time zone, the first match after `now`; None: it can't be computed.
        rooms: by project, how many executions may be added.
    """

    now: datetime.datetime
    grace: datetime.timedelta
    next_times: Mapping[tuple[str, str], datetime.datetime | None]
    rooms: Mapping[str, int]


class Fired(NamedTuple):
    """What became of a batch.

    Attributes:
        executions: the executions as (project, function, id).
        skips: the jobs that have not fired, with the reason.
        next_times: when the jobs of the batch that go on are due next, or are tried again; alarms are set for these.
    """

    executions: Sequence[tuple[str, str, str]]
    skips: Mapping[str, Skip]
    next_times: Collection[datetime.datetime]


def find(now: datetime.datetime, most: int, after: DueJob | None = None) -> list[DueJob]:
    """The jobs that are due, the longest due first.

    Args:
        now: the present.
        most: how many, at most.
        after: only those that follow this one.

    Raises:
        Unavailable: see `reading`.
    """
    due: Any = _due(now).select(*[getattr(Job, name) for name in DueJob._fields])
    if after is not None:
        at = after.next_execution_time
        # The first condition lets the index start there.
        due = due.where(Job.next_execution_time >= at, (Job.next_execution_time > at) | (Job.id > after.id))
    with reading():
        return [DueJob(*row) for row in due.order_by(Job.next_execution_time, Job.id).limit(most).tuples()]


def fire(job_ids: Collection[str], plan: Plan) -> Fired:
    """Fire those of the jobs that are due; durable on return.

    Args:
        job_ids: at most some hundreds, and at least one.
        plan: what the caller has found out about them.

    Raises:
        Unavailable: see `transact`. It is safe to call this again.
    """
    return transact(lambda: _fire(job_ids, plan))


def due_seconds(after: datetime.datetime, until: datetime.datetime) -> list[int]:
    """The whole seconds in which a job is due, in order, each rounded up, in seconds since the epoch.

    Args:
        after: later than this.
        until: in or before this second.

    Raises:
        Unavailable: see `reading`.
    """
    # One look into the index for each second, however many jobs are due in it.
    param = engine().param
    following = f"SELECT MIN(next_execution_time) FROM {_JOBS} WHERE status = 'running' AND next_execution_time >"
    up = f"{_SECOND_US - 1}) / {_SECOND_US}"
    with reading():
        rows = engine().execute_sql(
            f"WITH RECURSIVE due(micros) AS ({following} {param} UNION ALL"
            f" SELECT ({following} (due.micros + {up} * {_SECOND_US}) FROM due WHERE due.micros < {param})"
            f" SELECT (micros + {up} FROM due WHERE micros <= {param}",
            (clock.to_micros(after), clock.to_micros(until), clock.to_micros(until)),
        ).fetchall()
    return [int(second) for (second,) in rows]


def is_any_due(now: datetime.datetime) -> bool:
    """Whether a job is due.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        return _due(now).first() is not None


def _due(now: datetime.datetime) -> peewee.ModelSelect[Job]:
    jobs = system("jobs of all projects are fired").jobs()
    return jobs.where(Job.status == JobStatus.RUNNING.value, Job.next_execution_time <= now)


@dataclass(frozen=True, slots=True)
class _Due:
    """A due job, locked."""

    id: str
    project_id: str
    function_id: str | None
    function_version: int | None
    function_alias: str | None
    pattern: str | None
    timezone: str
    count: int | None
    misfire: str
    overlap: str
    last_execution_id: str | None
    next_execution_time: int


class _Move(NamedTuple):
    """The change of a job's row: what `_move` puts into its statement.

    Attributes:
        used: 1 if the job has fired, else 0.
        execution_id: the new last execution; None: as before.
    """

    id: str
    next_execution_time: int
    used: int
    status: str
    execution_id: str | None = None


def _fire(job_ids: Collection[str], plan: Plan) -> Fired:
    # The plan may have no next time for a job whose pattern or zone was changed after `find`. A later tick fires it.
    due = [job for job in _locked(job_ids, plan.now) if job.pattern is None or _key(job) in plan.next_times]
    if not due:
        return Fired((), {}, ())
    ids = {job.id: clock.fixed_id(clock.from_micros(job.next_execution_time), job.id) for job in due}
    aliases = _aliases(due)
    skips = _skips(due, ids, aliases, plan)
    firing = [job for job in due if job.id not in skips]
    inputs = _inputs([job.id for job in firing])
    records = [_record(job, ids[job.id], aliases, inputs.get(job.id), plan.now) for job in firing]
    staying = {job.id for job in due if _stays_due(job, skips.get(job.id), plan)}
    moves = [_moved(job, skips.get(job.id), ids[job.id], plan) for job in due if job.id not in staying]
    if moves:
        _move(moves)
    if records:
        execution_queue.insert([values_of(record) for record in records])
    next_times = {clock.from_micros(move.next_execution_time) for move in moves if move.status == JobStatus.RUNNING}
    if staying:
        next_times.add(_next_room_retry(plan.now))
    return Fired([(record.project_id, record.function_id, record.id) for record in records], skips, next_times)


def _locked(job_ids: Collection[str], now: datetime.datetime) -> list[_Due]:
    """The jobs that are due, locked. Those that someone else changes now are left out: a later tick fires them."""
    database = engine()
    lock = " FOR UPDATE SKIP LOCKED" if database.for_update else ""
    rows = database.execute_sql(
        f"SELECT {', '.join(_Due.__slots__)} FROM {_JOBS} WHERE id IN ({placeholders(job_ids)}) AND status = 'running'"
        f" AND next_execution_time <= {database.param} ORDER BY id{lock}",
        (*job_ids, clock.to_micros(now)),
    ).fetchall()
    return [_Due(*row) for row in rows]


def _skips(due: Sequence[_Due], ids: Mapping[str, str], aliases: _Aliases, plan: Plan) -> dict[str, Skip]:
    """The jobs that do not fire now."""
    missed_before = clock.to_micros(plan.now - plan.grace)
    last = [job.last_execution_id for job in due if job.overlap == Overlap.FORBID and job.last_execution_id]
    queued = _existing(QueuedExecution._meta.table_name, last)
    recorded = _existing(Execution._meta.table_name, ids.values())
    rooms = dict(plan.rooms)
    skips = {}
    for job in due:
        if job.misfire == Misfire.SKIP and job.next_execution_time < missed_before:
            skips[job.id] = Skip.MISFIRE
        elif job.pattern is not None and plan.next_times[_key(job)] is None:
            skips[job.id] = Skip.UNREADABLE
        elif job.overlap == Overlap.FORBID and job.last_execution_id in queued:
            skips[job.id] = Skip.OVERLAP
        elif ids[job.id] in recorded:
            skips[job.id] = Skip.REPEATED
        elif job.function_alias is not None and (job.project_id, job.function_alias) not in aliases:
            skips[job.id] = Skip.TARGET
        elif rooms.get(job.project_id, 0) < 1:
            skips[job.id] = Skip.ROOM
        else:
            rooms[job.project_id] -= 1
    return skips


def _stays_due(job: _Due, skip: Skip | None, plan: Plan) -> bool:
    """Whether a job stays due, to be tried again before its next time."""
    if skip is not Skip.ROOM or job.misfire != Misfire.SKIP:
        return False
    following = None if job.pattern is None else plan.next_times[_key(job)]
    return following is None or _next_room_retry(plan.now) < following


def _next_room_retry(now: datetime.datetime) -> datetime.datetime:
    """The next multiple of the interval, so that all jobs without room have one alarm, and not one for each try."""
    return clock.from_micros((clock.to_micros(now) // _ROOM_RETRY_US + 1) * _ROOM_RETRY_US)


def _moved(job: _Due, skip: Skip | None, execution_id: str, plan: Plan) -> _Move:
    is_last = job.pattern is None or job.count == 1
    if skip is None and is_last:
        return _Move(job.id, job.next_execution_time, 1, JobStatus.DONE.value, execution_id)
    if skip is not None and job.pattern is None and job.misfire == Misfire.SKIP:
        return _Move(job.id, job.next_execution_time, 0, JobStatus.DONE.value)
    again = plan.now + _RETRY_LATER
    following = (None if job.pattern is None else plan.next_times[_key(job)]) or again
    if skip is Skip.ROOM and job.misfire == Misfire.RUN_ONCE:
        following = min(following, again)
    next_execution_time = clock.to_micros(following)
    if skip is None:
        return _Move(job.id, next_execution_time, 1, JobStatus.RUNNING.value, execution_id)
    return _Move(job.id, next_execution_time, 0, JobStatus.RUNNING.value)


def _move(moves: Sequence[_Move]) -> None:
    """Write the changes of all jobs, in one statement."""
    database = engine()
    row = f"({placeholders(_Move._fields)})"
    database.execute_sql(
        f"UPDATE {_JOBS} SET next_execution_time = moved.column2, count = count - moved.column3,"
        f" status = moved.column4, last_execution_id = COALESCE(moved.column5, last_execution_id)"
        f" FROM (VALUES {', '.join([row] * len(moves))}) AS moved WHERE {_JOBS}.id = moved.column1",
        [value for move in moves for value in move],
    )


def _record(
    job: _Due,
    execution_id: str,
    aliases: _Aliases,
    function_input: str | None,
    now: datetime.datetime,
) -> ExecutionRecord:
    if job.function_alias is None:
        function_id, version = job.function_id or "", job.function_version or 0
    else:
        function_id, version, routing = aliases[job.project_id, job.function_alias]
        version = draw_version(version, routing)
    return ExecutionRecord(
        id=execution_id,
        project_id=job.project_id,
        function_id=function_id,
        function_version=version,
        function_alias=job.function_alias,
        description=description(job.id),
        input=function_input,
        status=ExecutionStatus.RUNNING.value,
        source="job",
        job_id=job.id,
        created_at=now,
    ).as_accepted()


def description(job_id: str) -> str:
    """The description of a job's executions."""
    return f"Created by Job {job_id}"


def _aliases(jobs: Sequence[_Due]) -> _Aliases:
    """The function, the version and the routing of each alias of the jobs, by its project and name."""
    named = sorted({(job.project_id, job.function_alias) for job in jobs if job.function_alias is not None})
    if not named:
        return {}
    pairs = ", ".join([f"({placeholders(named[0])})"] * len(named))
    rows = engine().execute_sql(
        "SELECT project_id, name, function_id, function_version, routing_version, routing_weight"
        f" FROM {_ALIASES} WHERE (project_id, name) IN (VALUES {pairs})",
        [part for pair in named for part in pair],
    ).fetchall()
    return {
        (project_id, name): (function_id, version, None if other is None else (other, weight))
        for project_id, name, function_id, version, other, weight in rows
    }


def _inputs(ids: Sequence[str]) -> dict[str, str]:
    if not ids:
        return {}
    rows = engine().execute_sql(
        f"SELECT id, function_input FROM {_JOBS} WHERE id IN ({placeholders(ids)}) AND function_input IS NOT NULL", ids
    )
    return dict(rows.fetchall())


def _existing(table: str, ids: Collection[str]) -> set[str]:
    """Those of the ids that are in the table."""
    if not ids:
        return set()
    rows = engine().execute_sql(f"SELECT id FROM {table} WHERE id IN ({placeholders(ids)})", list(ids)).fetchall()
    return {row_id for (row_id,) in rows}


def _key(job: _Due) -> tuple[str, str]:
    return job.pattern or "", job.timezone
