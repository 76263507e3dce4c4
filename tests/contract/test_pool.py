"""`/v1/pool`: what the operator sees of the warm pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.service import NOBODY, User, error
from tests.contract.shapes import (
    Shape,
    a_uuid,
    check,
    check_all,
    flag,
    number,
    one_of,
    optional,
    text,
    whole,
)

pytestmark = pytest.mark.xdist_group("contract")


def listed(value: Any) -> bool:
    return isinstance(value, list)


def members(*names: str) -> Callable[[Any], bool]:
    """An object with these members."""
    return lambda value: isinstance(value, dict) and value.keys() == set(names)


POOL: Shape = {
    "manager": text,
    "host": optional(members("isolation", "missing", "server")),
    "capacity": members("max_workers", "function_concurrency", "project_concurrency", "start_ms"),
    "workers": members("total", "leased", "draining"),
    "demand": members("waiting_calls", "targets_with_workers", "processes", "unrecorded_losses"),
    "calls": members("hit", "wait", "assign", "start", "refused"),
    "runtimes": listed,
    "runtimes_left_out": whole,
    "asynchronous_executions": members("accepted", "final", "in_flight", "deleted"),
    "callbacks": members("delivered", "retried", "dropped", "queued"),
}

RUNTIME: Shape = {
    "id": a_uuid,
    "stock": whole,
    "workers": members("starting", "warm", "idle", "leased"),
    "queues": members("escalated", "blocked"),
    "first_calls": whole,
    "calls": POOL["calls"],
}

WORKER: Shape = {
    "id": text,
    "state": one_of("starting", "warm", "idle", "leased", "draining"),
    "runtime_id": a_uuid,
    "image": text,
    "age_s": optional(number),
    "unused_s": optional(number),
    "function_id": optional(a_uuid),
    "function_version": optional(whole),
    "project_id": optional(text),
    "kept": flag,
    "recalled": flag,
    "ends_after_call": flag,
    "lease": optional(members("process", "execution_id", "accepted", "age_s", "left_s")),
}

EVENT: Shape = {
    "id": text,
    "time": text,
    "event": text,
    "reason": text,
    "worker_id": optional(text),
    "runtime_id": optional(a_uuid),
    "function_id": optional(a_uuid),
    "function_version": optional(whole),
    "execution_id": optional(a_uuid),
    "process": optional(text),
}

EXECUTION: Shape = {
    "id": a_uuid,
    "project_id": text,
    "function_id": a_uuid,
    "function_version": whole,
    "status": one_of("running", "success", "failed", "error"),
    "cold": one_of("none", "assign", "start"),
    "queued_ms": number,
    "explanation": text,
    "process": optional(text),
    "worker_id": optional(text),
    "events": listed,
}


def test_GET_v1_pool_answers_200(user: User, function_id: str) -> None:
    user.made("/v1/executions", function_id=function_id)

    answer = user.get("/v1/pool")

    assert answer.status_code == 200
    check(POOL, answer.json())
    check_all(RUNTIME, answer.json()["runtimes"])
    accepted, final, in_flight, deleted = answer.json()["asynchronous_executions"].values()
    assert accepted == final + in_flight + deleted


def test_GET_v1_pool_workers_answers_200(user: User, function_id: str) -> None:
    user.made("/v1/executions", function_id=function_id)

    answer = user.get("/v1/pool/workers")

    assert answer.status_code == 200
    check_all(WORKER, answer.json())
    assert function_id in {row["function_id"] for row in answer.json()}


def test_GET_v1_pool_queues_answers_200(user: User) -> None:
    answer = user.get("/v1/pool/queues")

    assert (answer.status_code, answer.json()) == (200, [])
    error(user.get("/v1/pool/queues", params={"limit": 0}), 400, field="limit")


def test_GET_v1_pool_events_answers_200(user: User, function_id: str) -> None:
    answer = user.get("/v1/pool/events", params={"limit": 2})

    assert answer.status_code == 200
    check_all(EVENT, answer.json())
    assert "started" in {row["event"] for row in user.get("/v1/pool/events").json()}
    error(user.get("/v1/pool/events", params={"marker": "x"}), 400, field="marker")


def test_GET_v1_pool_executions_id_answers_200(user: User) -> None:
    made = user.made("/v1/executions", function_id=user.function())

    answer = user.get(f"/v1/pool/executions/{made['id']}")

    assert answer.status_code == 200
    check(EXECUTION, answer.json())
    assert (answer.json()["cold"], answer.json()["queued_ms"]) == (made["cold"], made["queued_ms"])
    error(user.get(f"/v1/pool/executions/{NOBODY}"), 404, NOBODY)
    error(user.get("/v1/pool/executions/a-name"), 400)
