"""A call, and its execution record: at its start, at its end, and after its process was lost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson

from qinling_falcon.errors import NotRecorded, Unavailable
from qinling_falcon.invocation.loading import longest_reading_s
from qinling_falcon.invocation.targets import Target
from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import clock
from qinling_falcon.models import execution as executions
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.orchestrators.choice import can_run_images
from qinling_falcon.orchestrators.image_runs import longest_run_s
from qinling_falcon.pool.ended import Ended
from qinling_falcon.settings import Settings

# The lease does not hold a larger input. Its row is written as `running` before the call is sent.
_INLINE_INPUT = 16 * 1024
# The number of workers that a call tries, as long as none of them has taken the request.
TRIES = 5
PLATFORM_FAILURE = "Function execution failed."
_PERHAPS = "; it may have run, in part or to its end."
WORKER_LOST = f"The worker was lost while it ran the function{_PERHAPS}"
PROCESS_LOST = f"The process or the worker that ran the function was lost{_PERHAPS}"


class Call(NamedTuple):
    """What a caller wants to run.

    Attributes:
        function_id: the function; ignored if there is an alias.
        function_alias: an alias of the caller's project.
        input: JSON text of an object, any other text, or None.
        source: `api`, `webhook` or `job`.
        webhook_id: the webhook, if the source is one.
        job_id: the job, if the source is one.
        callback_depth: how many callbacks in a row led to this call.
    """

    function_id: str | None
    function_version: int = 0
    function_alias: str | None = None
    input: str | None = None
    description: str | None = None
    request_id: str = ""
    source: str = "api"
    webhook_id: str | None = None
    job_id: str | None = None
    callback_depth: int = 0


@dataclass(slots=True, eq=False)
class Accepted:
    """A claimed execution that was accepted before it runs. Its row exists, with status `running`.

    Attributes:
        id: the execution's id.
        project_id: its project.
        function_id: its function.
        created_at: when it was accepted.
        attempt: how often its function may have been started, including this time.
        claim: the number of the claim.
        failures: how many attempts are known to have failed.
        since: when its age began, if a user had it retried; None: its age began when it was accepted.
        claimed_until: when the claim ends, on the monotonic clock. The process extends its claims.
        due_at: from when on it has waited for this attempt; None: unknown.
    """

    id: str
    project_id: str
    function_id: str
    created_at: datetime
    attempt: int
    claim: int
    failures: int = 0
    since: datetime | None = None
    claimed_until: float = math.inf
    due_at: datetime | None = None


def commit_record(final: ExecutionRecord, *, was_sent: bool = True) -> ExecutionRecord:
    """Commit the final record of an execution.

    If the reaper already recorded this execution as lost, return that record instead.

    Args:
        final: the record.
        was_sent: whether a worker got the call, so that the function has run or may have run.

    Raises:
        NotRecorded: the database is away, and the call was sent.
        Unavailable: the database is away, and the function has not run.
    """
    try:
        if record(final):
            return final
        return stored_record(final.project_id, final.id)
    except Unavailable as error:
        if not was_sent:
            raise
        raise not_recorded(final) from error


def stored_record(project_id: str, execution_id: str) -> ExecutionRecord:
    """The record of an execution as it is in the database, without its log.

    Raises:
        NotFound, Unavailable: it is not there, or the database is away.
    """
    return _as_record(executions.get(Context(project_id), execution_id))


def not_recorded(final: ExecutionRecord) -> NotRecorded:
    """The error for an execution that may have run, and whose record was not committed."""
    return NotRecorded(final.id, "may have run" if final.status == ExecutionStatus.ERROR else "has run")


def record_overdue(settings: Settings, ended: Ended) -> list[str]:
    """Record executions as failed that have been `running` for longer than any execution can. Returns their ids.

    Their process was lost, and their lease was lost with the data of Redis, so the reaper can't find them.

    Args:
        settings: the longest times of a call.
        ended: notifies those who wait for the end of an execution.

    Raises:
        Unavailable: the database is away; call this again later.
    """
    longest_s = settings.invoke_queue_timeout_s + settings.holder_ttl_s
    longest_s += TRIES * (longest_reading_s(settings) + settings.unpack_timeout_s)
    longest_s += settings.max_timeout + settings.load_timeout_s + settings.lease_grace_s
    if can_run_images(settings):
        longest_s += longest_run_s(settings, 0)
    overdue = list(executions.running_since(clock.wall() - timedelta(seconds=2 * longest_s)))
    for row in overdue:
        record(failed_record(_as_record(row), f"The process that ran the function was lost{_PERHAPS}"))
    ids = [row.id for row in overdue]
    ended.notify(ids)
    return ids


def running_record(detail: str) -> ExecutionRecord:
    """The record of an execution that runs now, from the detail in its journal."""
    return read_detail(detail)[0]


def read_detail(detail: str) -> tuple[ExecutionRecord, Accepted | None]:
    """Read a detail: the record of an execution, and its claim if it was accepted before it ran.

    Members that this release does not know are ignored, because a process of a later one may have written them.
    """
    members = json.loads(detail)
    attempt, claim, since = members.pop("attempt", None), members.pop("claim", 0), members.pop("since", None)
    members["created_at"] = clock.from_micros(members["created_at"])
    known = {name: value for name, value in members.items() if name in ExecutionRecord._fields}
    started = ExecutionRecord(**known, status=ExecutionStatus.RUNNING, sync=attempt is None)
    if attempt is None:
        return started, None
    age_began = None if since is None else clock.from_micros(since)
    accepted = Accepted(
        started.id, started.project_id, started.function_id, started.created_at, attempt, claim, since=age_began
    )
    return started, accepted


def _as_record(row: executions.Execution) -> ExecutionRecord:
    """A row as a record, without its log."""
    return ExecutionRecord(**{name: getattr(row, name) for name in _UNLOGGED})


def accepted_record(target: Target, call: Call, execution_id: str, now: datetime) -> ExecutionRecord:
    """The record of an execution of `target` that was accepted and has not started."""
    started = started_record(target, call, execution_id, now)
    return started.as_accepted()._replace(callback_depth=call.callback_depth or None)


def accepted_again(row: executions.Execution) -> ExecutionRecord:
    """The record of an asynchronous execution as it was when it was accepted, from its row at any later time."""
    return _as_record(row).as_accepted()._replace(
        result=None,
        status_reason=None,
        cold=None,
        queued_ms=None,
        run_ms=None,
        updated_at=None,
    )


def started_record(target: Target, call: Call, execution_id: str, now: datetime) -> ExecutionRecord:
    """The record of an execution of `target` that starts now."""
    return ExecutionRecord(
        id=execution_id,
        project_id=target.project_id,
        function_id=target.function_id,
        function_version=target.version,
        function_alias=call.function_alias,
        description=call.description,
        input=call.input,
        status=ExecutionStatus.RUNNING,
        source=call.source,
        created_at=now,
        webhook_id=call.webhook_id,
        job_id=call.job_id,
        request_id=call.request_id or None,
    )


def completed_record(started: ExecutionRecord, ran: Ran, cold: str, queued_ms: float) -> ExecutionRecord:
    """The final record of an execution with a known outcome: the worker's, or that of a package that failed to load."""
    return started._replace(
        status=ran.status,
        status_reason=ran.message,
        result=ran.result,
        log=ran.log,
        cold=cold,
        queued_ms=queued_ms,
        run_ms=round(ran.duration_s * 1000, 3),
        updated_at=clock.now(),
    )


def failed_record(
    started: ExecutionRecord, reason: str, cold: str | None = None, queued_ms: float | None = None
) -> ExecutionRecord:
    """The final record of an execution that failed because of the platform: status `error`."""
    duration = (clock.now() - started.created_at).total_seconds()
    return started._replace(
        status=ExecutionStatus.ERROR,
        status_reason=reason,
        result=json.dumps({"duration": round(duration, 3), "output": PLATFORM_FAILURE}),
        log=_empty_log(started),
        cold=cold,
        queued_ms=queued_ms,
        updated_at=clock.now(),
    )


def not_loaded_record(started: ExecutionRecord, reason: str, cold: str, queued_ms: float) -> ExecutionRecord:
    """The final record of an execution whose package could not be loaded: the function's failure, status `failed`."""
    result = json.dumps({"duration": 0.0, "output": reason})
    ran = Ran(ExecutionStatus.FAILED, reason, result, _empty_log(started), 0.0)
    return completed_record(started, ran, cold, queued_ms)


def is_inline(text: str | None) -> bool:
    """Whether an input is small enough to travel in the lease."""
    return text is None or len(text) <= _INLINE_INPUT


def detail(started: ExecutionRecord, accepted: Accepted | None = None) -> str:
    """The detail of an execution, which its lease stores in the journal in Redis.

    It suffices to show the execution as running, and to record it if its holder dies. It has no input if the
    execution's row has it, which is so for a large input and for an accepted execution. The detail of an accepted
    execution has its attempt and its claim.
    """
    members = {
        "id": started.id,
        "project_id": started.project_id,
        "function_id": started.function_id,
        "function_version": started.function_version,
        "function_alias": started.function_alias,
        "description": started.description,
        "input": started.input if accepted is None and is_inline(started.input) else None,
        "source": started.source,
        "created_at": clock.to_micros(started.created_at),
        "request_id": started.request_id,
    }
    if started.webhook_id is not None:
        members["webhook_id"] = started.webhook_id
    if started.job_id is not None:
        members["job_id"] = started.job_id
    if accepted is not None:
        members |= {"attempt": accepted.attempt, "claim": accepted.claim}
        if accepted.since is not None:
            members["since"] = clock.to_micros(accepted.since)
    return orjson.dumps(members).decode()


def _empty_log(started: ExecutionRecord) -> str:
    return f"Start execution: {started.id}\nFinished execution: {started.id}\n"


_UNLOGGED = tuple(name for name in ExecutionRecord._fields if name != "log")
