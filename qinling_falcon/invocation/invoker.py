"""The invoker: the one path on which a target is run. Lease, call, record, release.

What a crash of this process leaves, step by step:

- before the lease: nothing; the caller has no answer and nothing was begun;
- with the lease, until the record is committed: the lease (and, for a large
  input, a row that is `running`). The reaper finds that its holder is silent,
  destroys the worker and has the execution recorded as `error`; if Redis was
  lost as well, `record_overdue` does that for the row;
- after the record: the lease, but the record is final already and stays as it is.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.targets import Resolver, Target
from qinling_falcon.invocation.worker_client import NotSent, WorkerClient, WorkerLost
from qinling_falcon.models import clock
from qinling_falcon.models.execution import running_since
from qinling_falcon.models.records import ExecutionRecord, begin, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import ExecutionStatus
from qinling_falcon.pool.leases import Lease, LeaseRequest, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import PackageMissing, PackageStore

log = logging.getLogger(__name__)

# A larger input does not travel in the lease: its row is written before it is sent, as `running`.
INLINE_INPUT = 16 * 1024
# How often a call is tried again before it was sent: on a stale target or a worker that is gone.
_TRIES = 5
PLATFORM_FAILURE = "Function execution failed."


@dataclass(frozen=True, slots=True)
class Call:
    """What a caller wants to run.

    Attributes:
        input: JSON text of an object, any other text, or None.
        source: `api`, `webhook` or `job`.
    """

    function_id: str
    function_version: int = 0
    function_alias: str | None = None
    input: str | None = None
    description: str | None = None
    request_id: str = ""
    source: str = "api"


class Invoker:
    """Runs calls on the warm pool."""

    def __init__(self, pool: Pool, resolver: Resolver, packages: PackageStore, settings: Settings):
        self._pool = pool
        self._resolver = resolver
        self._packages = packages
        self._settings = settings
        self._workers = WorkerClient()

    def invoke(self, context: Context, call: Call) -> ExecutionRecord:
        """Run `call` and return its record, final and durable.

        Raises:
            NotFound, Conflict: there is nothing to run, or its runtime is not available.
            Unavailable: no worker in time; the function has not run.
        """
        began = time.monotonic()
        deadline = began + self._settings.invoke_queue_timeout_s
        target = self._resolver.resolve(context, call.function_id, call.function_version)
        begun = _begin(target, call)
        detail = _detail(begun)
        for _ in range(_TRIES):
            try:
                lease = self._pool.lease(self._request(target, begun.id, detail), max(0.0, deadline - time.monotonic()))
            except StaleTarget:
                self._resolver.forget(target)
                target = self._resolver.resolve(context, call.function_id, call.function_version)
                continue
            try:
                final, healthy = self._serve(lease, target, call, begun, began)
                # Before the release: once the lease is gone, nothing but the record knows of this execution.
                record(final)
            except NotSent as error:
                log.warning("worker %s was given up: %s", lease.worker_id, error)
                self._pool.release(lease, destroy=True)
                continue
            except PackageMissing:
                # The function was updated or deleted after it was leased, before its worker had loaded it.
                self._pool.release(lease, destroy=True)
                self._resolver.forget(target)
                target = self._resolver.resolve(context, call.function_id, call.function_version)
                continue
            except BaseException:
                # The database is away, or this process is being stopped: the reaper has it recorded.
                self._pool.abandon(lease)
                raise
            self._pool.release_soon(lease, destroy=not healthy)
            return final
        raise Unavailable("No worker could take this call; it has not run. Try again.", retry_after_s=1)

    def _request(self, target: Target, execution_id: str, detail: str) -> LeaseRequest:
        settings = self._settings
        return LeaseRequest(
            target=target.key,
            runtime_id=target.runtime_id,
            function_id=target.function_id,
            project_id=target.project_id,
            execution_id=execution_id,
            generations=target.generations,
            run_s=target.timeout_s + settings.load_timeout_s + settings.lease_grace_s,
            detail=detail,
        )

    def _serve(
        self, lease: Lease, target: Target, call: Call, begun: ExecutionRecord, began: float
    ) -> tuple[ExecutionRecord, bool]:
        """Call the leased worker; the final record, and whether the worker can serve on."""
        settings = self._settings
        if lease.needs_load:
            self._workers.load(lease, self._packages.read(target.package), _about(target), settings.load_timeout_s)
        if not _is_inline(call.input):
            begin(begun)
        queued_ms = _milliseconds(began)
        execution = {
            "token": lease.token,
            "execution_id": begun.id,
            "timeout_s": target.timeout_s,
            "input": call.input,
            "context": {
                "execution_id": begun.id,
                "function_id": target.function_id,
                "function_version": target.version,
                "request_id": call.request_id,
                "timeout": target.timeout_s,
            },
        }
        longest_s = target.timeout_s + settings.load_timeout_s + settings.lease_grace_s / 2
        try:
            answer = self._workers.execute(lease, execution, longest_s)
        except WorkerLost as error:
            log.warning("worker %s was lost in execution %s: %s", lease.worker_id, begun.id, error)
            return _failed(begun, "the worker was lost while it ran the function", lease.cold, queued_ms), False
        return _finished(begun, answer, lease.cold, queued_ms), True


def record_lost(details: Mapping[str, str]) -> None:
    """Record executions whose lease was lost; `details` is what their leases held, by execution id.

    The first final state wins, so an execution that its holder recorded after all stays as it is.

    Raises:
        Unavailable: the database is away; to be called again.
    """
    for detail in details.values():
        record(_failed(running(detail), "the process or the worker that ran it was lost"))


def record_overdue(settings: Settings) -> list[str]:
    """Record executions that are `running` for longer than any can be; their ids.

    These lost their process and, with Redis, their lease, so that the reaper knows nothing of them.

    Raises:
        Unavailable: the database is away; to be called again.
    """
    longest_s = settings.invoke_queue_timeout_s + settings.holder_ttl_s + _TRIES * settings.load_timeout_s
    longest_s += settings.max_timeout + settings.load_timeout_s + settings.lease_grace_s
    overdue = list(running_since(clock.now() - timedelta(seconds=2 * longest_s)))
    for row in overdue:
        begun = ExecutionRecord(**{field.name: getattr(row, field.name) for field in _UNLOGGED})
        record(_failed(begun, "the process that ran it was lost"))
    return [row.id for row in overdue]


def running(detail: str) -> ExecutionRecord:
    """The record of an execution that runs now, from what its lease holds."""
    members = json.loads(detail)
    members["created_at"] = clock.from_micros(members["created_at"])
    return ExecutionRecord(**members, status=ExecutionStatus.RUNNING)


def _begin(target: Target, call: Call) -> ExecutionRecord:
    now = clock.now()
    return ExecutionRecord(
        id=clock.new_id(now),
        project_id=target.project_id,
        function_id=target.function_id,
        function_version=target.version,
        function_alias=call.function_alias,
        description=call.description,
        input=call.input,
        status=ExecutionStatus.RUNNING,
        source=call.source,
        created_at=now,
    )


def _finished(begun: ExecutionRecord, answer: dict[str, Any], cold: str, queued_ms: float) -> ExecutionRecord:
    return dataclasses.replace(
        begun,
        status=answer["status"],
        status_reason=answer["reason"],
        result=answer["result"],
        log=answer["log"],
        cold=cold,
        queued_ms=queued_ms,
        run_ms=round(answer["duration_s"] * 1000, 3),
        updated_at=clock.now(),
    )


def _failed(
    begun: ExecutionRecord, reason: str, cold: str | None = None, queued_ms: float | None = None
) -> ExecutionRecord:
    """The record of an execution that the platform failed: status `error`."""
    duration = (clock.now() - begun.created_at).total_seconds()
    return dataclasses.replace(
        begun,
        status=ExecutionStatus.ERROR,
        status_reason=reason,
        result=json.dumps({"duration": round(duration, 3), "output": PLATFORM_FAILURE}),
        log=f"Start execution: {begun.id}\nFinished execution: {begun.id}\n",
        cold=cold,
        queued_ms=queued_ms,
        updated_at=clock.now(),
    )


def _is_inline(text: str | None) -> bool:
    return text is None or len(text) <= INLINE_INPUT


def _detail(begun: ExecutionRecord) -> str:
    """What the lease holds of an execution: enough to show it as running, and to record it when its holder dies.

    A large input is in the execution's row, which its end leaves as it is.
    """
    members = {
        "id": begun.id,
        "project_id": begun.project_id,
        "function_id": begun.function_id,
        "function_version": begun.function_version,
        "function_alias": begun.function_alias,
        "description": begun.description,
        "input": begun.input if _is_inline(begun.input) else None,
        "source": begun.source,
        "created_at": clock.to_micros(begun.created_at),
    }
    return json.dumps(members)


def _about(target: Target) -> dict[str, Any]:
    return {
        "target": target.key,
        "entry": target.entry,
        "memory_size": target.memory_size,
        "cpu": target.cpu,
    }


def _milliseconds(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)


_UNLOGGED = tuple(field for field in dataclasses.fields(ExecutionRecord) if field.name != "log")
