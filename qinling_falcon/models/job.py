"""Jobs: times at which a function runs. Their rows have the complete state.

`jobs/tick.py` fires due jobs by `due_jobs`. The scheduler only wakes it.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from qinling_falcon.errors import BadRequest, Conflict
from qinling_falcon.models import clock, execution_queue, quotas
from qinling_falcon.models.database import transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.records import ExecutionRecord, values_of
from qinling_falcon.models.references import check_target, target_columns
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.states import JobStatus, Misfire, Overlap
from qinling_falcon.models.tables import Job
from qinling_falcon.models.zones import UTC, next_fire

__all__ = ["LISTS", "Job", "JobStatus", "create", "delete", "get", "run", "update"]

LISTS = ListSpec(
    Job,
    filters={
        "id": Column(Job.id, Kind.TEXT),
        "name": Column(Job.name, Kind.TEXT),
        "function_id": Column(Job.function_id, Kind.TEXT),
        "function_version": Column(Job.function_version, Kind.INTEGER),
        "function_alias": Column(Job.function_alias, Kind.TEXT),
        "function_input": Column(Job.function_input, Kind.TEXT),
        "pattern": Column(Job.pattern, Kind.TEXT),
        "count": Column(Job.count, Kind.INTEGER),
        "status": Column(Job.status, Kind.TEXT),
        "first_execution_time": Column(Job.first_execution_time, Kind.TIME),
        "next_execution_time": Column(Job.next_execution_time, Kind.TIME),
        "misfire": Column(Job.misfire, Kind.TEXT),
        "overlap": Column(Job.overlap, Kind.TEXT),
        "timezone": Column(Job.timezone, Kind.TEXT),
        "project_id": Column(Job.project_id, Kind.TEXT),
        "created_at": Column(Job.created_at, Kind.TIME),
        "updated_at": Column(Job.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Job.created_at,
        "updated_at": Job.updated_at,
        "name": Job.name,
        "status": Job.status,
    },
)

_AHEAD = datetime.timedelta(minutes=1)
_INSTANT = datetime.timedelta(microseconds=1)
_FINAL = frozenset({JobStatus.CANCELLED.value, JobStatus.DONE.value})


def create(
    context: Context,
    *,
    function_id: str | None = None,
    function_version: int | None = None,
    function_alias: str | None = None,
    function_input: str | None = None,
    name: str | None = None,
    pattern: str | None = None,
    first_execution_time: datetime.datetime | None = None,
    count: int | None = None,
    misfire: str = Misfire.RUN_ONCE,
    overlap: str = Overlap.ALLOW,
    timezone: str = UTC,
    now: datetime.datetime | None = None,
) -> Job:
    """Create a job that runs a function, a version or an alias of the caller's project.

    Args:
        context: the caller.
        function_id: the function; required without an alias.
        function_version: the version of the function; None or 0: the function itself.
        function_alias: an alias; it takes precedence over `function_id` and `function_version`.
        function_input: the input of the calls.
        name: the name of the job.
        pattern: a cron pattern; None: the job fires once, at `first_execution_time`.
        first_execution_time: with a pattern, the start of its validity; None: now.
        count: with a pattern, how often the job fires; None: without limit.
        misfire: a value of `Misfire`.
        overlap: a value of `Overlap`.
        timezone: the zone in which the pattern is read.
        now: the time of creation.

    Raises:
        NotFound: the function, the version or the alias does not exist.
        BadRequest: `first_execution_time` is not at least a minute ahead.
        QuotaExceeded: the project has reached its quota of jobs.
    """
    moment = now or clock.wall()
    if first_execution_time is not None:
        _check_ahead("first_execution_time", first_execution_time, moment)
    if pattern is None:
        assert first_execution_time is not None
        first, count = first_execution_time, 1
    else:
        # The given time counts when it matches.
        first = next_fire(pattern, timezone, first_execution_time - _INSTANT if first_execution_time else moment)
    job = Job(
        id=str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        name=name,
        function_input=function_input,
        input_size=_size(function_input),
        pattern=pattern,
        count=count,
        misfire=str(misfire),
        overlap=str(overlap),
        timezone=timezone,
        first_execution_time=first,
        next_execution_time=first,
        **target_columns(function_id, function_version, function_alias),
    )

    def write() -> None:
        quotas.check(context.project_id, quotas.JOBS)
        check_target(context, job.function_id, job.function_version, job.function_alias)
        job.save(force_insert=True)

    transact(write)
    return job


def get(context: Context, job_id: str) -> Job:
    """A job that the caller may see.

    Raises:
        NotFound: unknown, or not the caller's.
    """
    return find(scoped(context, by_id=True).jobs(), job_id)


def update(
    context: Context, job_id: str, changes: Mapping[str, Any], *, now: datetime.datetime | None = None
) -> Job:
    """Change a job that has not ended. What it runs stays.

    Unless `next_execution_time` is given, it is computed from now in two cases:

    1. The pattern or the time zone changes.
    2. A paused job with a pattern runs again. Missed times are not made up.

    A paused job without a pattern can run again only while its time is ahead.

    Args:
        context: the caller.
        job_id: its id.
        changes: among `name, function_input, status, pattern, next_execution_time, misfire, overlap, timezone`; none
            of them None. The status is not `done`.
        now: the time of the change.

    Raises:
        NotFound: unknown, or not the caller's.
        Forbidden: it is another project's, and the caller an admin.
        BadRequest: the job has ended; a job without a pattern gets one, or is resumed after its time; or the next time
            is not a minute ahead.
    """

    def write() -> Job:
        job = find(scoped(context, by_id=True).jobs(), job_id, lock=True)
        check_owner(context, job, "change")
        if job.status in _FINAL:
            raise BadRequest(f"Job {job_id} is {job.status}, and can't change any more.")
        columns = dict(changes) | _next_time(job, changes, now or clock.wall()) | {"updated_at": now or clock.now()}
        if "function_input" in changes:
            columns["input_size"] = _size(changes["function_input"])
        return change(job, columns)

    return transact(write)


def delete(context: Context, job_id: str) -> None:
    """Delete a job, whatever its status; its executions stay.

    Raises:
        NotFound: as `get`.
        Forbidden: it is another project's, and the caller an admin.
    """

    def write() -> None:
        job = find(scoped(context, by_id=True).jobs(), job_id, lock=True)
        check_owner(context, job, "delete")
        Job.delete().where(Job.id == job_id).execute()

    transact(write)


def run(context: Context, job_id: str, record: ExecutionRecord) -> None:
    """Accept an execution of a job on request, in addition to those at its times; durable on return.

    Neither the job's count nor its next time changes. A paused or done job can run, too.

    Args:
        context: the caller.
        job_id: the job.
        record: the execution, with status `running` and attempt 0.

    Raises:
        NotFound: as `get`.
        Forbidden: it is another project's, and the caller an admin.
        Conflict: it is cancelled; or its last execution has not ended, and its `overlap` forbids another one.
        Unavailable: see `transact`.
    """

    def write() -> None:
        job = find(scoped(context, by_id=True).jobs(), job_id, lock=True)
        check_owner(context, job, "run")
        if job.status == JobStatus.CANCELLED:
            raise Conflict(f"Job {job_id} is cancelled, and can't be run.")
        last = job.last_execution_id
        if job.overlap == Overlap.FORBID and last is not None and execution_queue.attempt_of(last) is not None:
            raise Conflict(f"Execution {last} of job {job_id} has not ended, and the job's overlap is '{job.overlap}'.")
        execution_queue.insert([values_of(record)])
        change(job, {"last_execution_id": record.id})

    transact(write)


def _size(text: str | None) -> int:
    return len(text.encode()) if text else 0


def _next_time(job: Job, changes: Mapping[str, Any], now: datetime.datetime) -> dict[str, Any]:
    """The change of the next time that follows from the other changes, which are found to be possible."""
    pattern, timezone = changes.get("pattern", job.pattern), changes.get("timezone", job.timezone)
    if job.pattern is None and pattern is not None:
        raise _bad("pattern", f"job {job.id} fires once, and can't get a pattern.")
    if "next_execution_time" in changes:
        _check_ahead("next_execution_time", changes["next_execution_time"], now)
        return {}
    resumed = job.status == JobStatus.PAUSED and changes.get("status") == JobStatus.RUNNING
    if pattern is not None:
        is_moved = resumed or (pattern, timezone) != (job.pattern, job.timezone)
        return {"next_execution_time": next_fire(pattern, timezone, now)} if is_moved else {}
    if resumed and job.next_execution_time <= now:
        raise _bad("status", "the time of the job has gone by; give it another next_execution_time as well.")
    return {}


def _check_ahead(field: str, moment: datetime.datetime, now: datetime.datetime) -> None:
    if moment < now + _AHEAD:
        raise _bad(field, f"must be at least one minute ahead; now it is {now:%Y-%m-%d %H:%M:%S} (UTC).")


def _bad(field: str, message: str) -> BadRequest:
    return BadRequest(f"{field}: {message}", errors={field: [message]})
