"""The schemas of the operator's view of the pool."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.call_counts import Outcome
from qinling_falcon.pool.inspection import EVENTS
from qinling_falcon.pool.leases import StartKind
from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.fields import FLAG, MILLISECONDS, NUMBER, TEXT, UUID, Plain, one_of

STATES = ("starting", "warm", "idle", "leased", "draining")
_SECONDS: Mapping[str, Any] = {"type": "number"}
_ID: Mapping[str, Any] = {"type": "string"}
_OUTCOMES: tuple[str, ...] = get_args(Outcome)
_TIME: Mapping[str, Any] = {
    "type": "string",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}$",
    "description": "UTC, by the clock of Redis.",
}


def _object(properties: Mapping[str, Any], description: str = "") -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
    return described | {"description": description} if description else described


def _numbers(names: Iterable[str]) -> dict[str, Any]:
    return dict.fromkeys(names, NUMBER)


def _nullable(kind: Mapping[str, Any]) -> dict[str, Any]:
    return {**kind, "type": [kind["type"], "null"]}


_CALLS = _object(
    _numbers(_OUTCOMES),
    "Calls since Redis is up: `hit` an idle worker at once, `wait` a busy one later, `assign` a warm one that loaded "
    "the function, `start` one that had to start, `refused` none.",
)
_RUNTIME = _object(
    {
        "id": _ID,
        "stock": NUMBER,
        "workers": _object(_numbers(("starting", "warm", "idle", "leased"))),
        "queues": _object(_numbers(("escalated", "blocked"))),
        "first_calls": NUMBER,
        "calls": _CALLS,
    }
)
_HOST = _object(
    {
        "isolation": TEXT,
        "missing": {"type": "array", "items": _object({"feature": TEXT, "note": TEXT})},
        "server": {
            **_nullable(
                _object(
                    {
                        "away_since": _nullable(TEXT),
                        "reason": _nullable(TEXT),
                        "unknown": {**_nullable(TEXT), "description": "What the pool can't know or do meanwhile."},
                        "requests_per_minute": NUMBER,
                        "request_budget": NUMBER,
                    }
                )
            ),
            "description": "The API server of the cluster that makes the workers. Null: they are made on one machine.",
        },
    },
    "How workers are confined, what this host can't give, and whether the server that makes them answers.",
)
_LEASE = _object(
    {
        "process": _ID,
        "execution_id": _nullable(_ID),
        "accepted": {**FLAG, "description": "False: offered to the process, which has not accepted it yet."},
        "age_s": _SECONDS,
        "left_s": {**_SECONDS, "description": "Until its deadline."},
    }
)
_BLOCKED = _object({"limit": one_of(("version", "function", "project", "runtime")), "is": NUMBER, "used": NUMBER})


class PoolStateShown(Shown):
    """The pool in numbers. `runtimes` has at most 100 of them."""

    manager = Plain(TEXT | {"description": "The active pool manager."}, null=True)
    host = Plain(_HOST, null=True)
    capacity = Plain(
        _object(
            {
                "max_workers": _nullable(NUMBER),
                "function_concurrency": _nullable(NUMBER),
                "project_concurrency": _nullable(NUMBER),
                "start_ms": {**_nullable(MILLISECONDS), "description": "The measured cost of a start."},
            },
            "Null: no manager has written it yet.",
        )
    )
    workers = Plain(_object(_numbers(("total", "leased", "draining"))))
    demand = Plain(_object(_numbers(("waiting_calls", "targets_with_workers", "processes", "unrecorded_losses"))))
    calls = Plain(_CALLS)
    runtimes = Plain({"type": "array", "items": _RUNTIME})
    runtimes_left_out = Plain(NUMBER)


class PoolNumbersShown(PoolStateShown):
    """The same, with the numbers of asynchronous executions and of callbacks."""

    asynchronous_executions = Plain(
        _object(
            _numbers(("accepted", "final", "in_flight", "deleted")),
            "`accepted` is the sum of the others. Null: the database is away.",
        ),
        null=True,
    )
    callbacks = Plain(
        _object(
            _numbers(("delivered", "retried", "dropped", "queued")),
            "`retried` counts failed attempts that were followed by another one, `dropped` the callbacks that were "
            "given up. Null: the database is away.",
        ),
        null=True,
    )


class PoolWorkerShown(Shown):
    """A worker of any runtime."""

    id = Plain(_ID)
    state = Plain(one_of(STATES))
    runtime_id = Plain(_ID)
    image = Plain(TEXT)
    age_s = Plain(_SECONDS, null=True)
    unused_s = Plain(_SECONDS, null=True)
    function_id = Plain(_ID, null=True)
    function_version = Plain(NUMBER, null=True)
    project_id = Plain(TEXT, null=True)
    kept = Plain(FLAG)
    recalled = Plain(FLAG)
    ends_after_call = Plain(FLAG)
    lease = Plain(_LEASE, null=True)


class PoolQueueShown(Shown):
    """The waiting calls of one version of a function."""

    runtime_id = Plain(_ID)
    function_id = Plain(_ID)
    function_version = Plain(NUMBER)
    project_id = Plain(TEXT)
    ahead_of_calls = Plain(FLAG)
    waiting = Plain(NUMBER)
    processes = Plain(NUMBER)
    oldest_wait_ms = Plain(MILLISECONDS)
    workers = Plain(NUMBER)
    state = Plain(one_of(("waiting", "escalated", "blocked")))
    blocked_by = Plain(_BLOCKED, null=True)


_EVENT: Mapping[str, Any] = {
    "id": TEXT,
    "time": _TIME,
    "event": one_of(EVENTS),
    "reason": TEXT,
    "worker_id": _nullable(_ID),
    "runtime_id": _nullable(_ID),
    "function_id": _nullable(_ID),
    "function_version": _nullable(NUMBER),
    "execution_id": _nullable(_ID),
    "process": _nullable(TEXT),
}


class PoolEventShown(Shown):
    """Something that happened to a worker or a lease."""

    id = Plain(TEXT)
    time = Plain(_TIME)
    event = Plain(one_of(EVENTS))
    reason = Plain(TEXT)
    worker_id = Plain(_ID, null=True)
    runtime_id = Plain(_ID, null=True)
    function_id = Plain(_ID, null=True)
    function_version = Plain(NUMBER, null=True)
    execution_id = Plain(_ID, null=True)
    process = Plain(TEXT, null=True)


class PoolExecutionShown(Shown):
    """Why a call was slow: what it waited for, and for how long."""

    id = Plain(UUID)
    project_id = Plain(TEXT)
    function_id = Plain(UUID)
    function_version = Plain(NUMBER)
    status = Plain(one_of(ExecutionStatus))
    cold = Plain(one_of(get_args(StartKind)), null=True)
    queued_ms = Plain(MILLISECONDS, null=True)
    explanation = Plain(TEXT | {"description": "The same as text for people. It may change."})
    process = Plain(TEXT | {"description": "The process that runs it; null when it has ended."}, null=True)
    worker_id = Plain(TEXT, null=True)
    events = Plain(
        {
            "type": "array",
            "items": _object(_EVENT),
            "description": "What happened meanwhile to the function's workers; starts and evictions of its runtime.",
        }
    )
