"""Retries of executions: the queue of a project has a limit for them, too."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from qinling_falcon.models import clock
from qinling_falcon.models.records import ExecutionRecord, record
from tests.api.client import Client, assert_error


@pytest.fixture
def client(client_with: Any) -> Client:
    """A client of a service in which two executions of a project may wait."""
    made: Client = client_with(async_queue_limit=2)
    return made


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


def failed(function_id: str, **fields: Any) -> str:
    """The id of an asynchronous execution that has failed."""
    values: dict[str, Any] = {"sync": False, "status": "failed", "created_at": clock.now(), "updated_at": clock.now()}
    made = ExecutionRecord(
        **{"id": str(uuid.uuid4()), "project_id": "default", "function_id": function_id} | values | fields
    )
    record(made)
    return made.id


def fill(client: Client, function_id: str, count: int) -> None:
    for _ in range(count):
        body = {"function_id": function_id, "sync": False}
        assert client.simulate_post("/v1/executions", json=body).status_code == 201


def retry_all(client: Client, status: str = "failed", **more: Any) -> Any:
    return client.simulate_post("/v1/executions/retry", json={"status": status, **more})


def test_a_retry_is_refused_while_the_queue_is_full(client: Client, function_id: str) -> None:
    execution_id = failed(function_id)
    fill(client, function_id, 2)

    answer = client.simulate_post(f"/v1/executions/{execution_id}/retry")

    assert_error(answer, 503, "has 2 executions that wait, and at most 2 may wait (ASYNC_QUEUE_LIMIT)", execution_id)
    assert int(answer.headers["retry-after"]) > 0
    assert client.simulate_get(f"/v1/executions/{execution_id}").json["status"] == "failed"


def test_a_retry_that_is_impossible_is_refused_for_that_reason_also_while_the_queue_is_full(
    client: Client, function_id: str
) -> None:
    successful = failed(function_id, status="success")
    fill(client, function_id, 2)

    assert_error(client.simulate_post(f"/v1/executions/{successful}/retry"), 409, "success")
    assert_error(client.simulate_post(f"/v1/executions/{uuid.uuid4()}/retry"), 404)


def test_a_retry_counts_as_a_waiting_execution(client: Client, function_id: str) -> None:
    for _ in range(2):
        assert client.simulate_post(f"/v1/executions/{failed(function_id)}/retry").status_code == 202

    assert_error(client.simulate_post(f"/v1/executions/{failed(function_id)}/retry"), 503, "at most 2 may wait")
    answer = client.simulate_post("/v1/executions", json={"function_id": function_id, "sync": False})
    assert_error(answer, 503, "at most 2 may wait")


def test_as_many_are_retried_as_the_queue_takes_and_the_others_are_counted(client: Client, function_id: str) -> None:
    fill(client, function_id, 1)
    ids = [failed(function_id) for _ in range(4)]

    answer = retry_all(client)

    assert (answer.status_code, answer.json) == (200, {"count": 1, "more": True, "left": 3})
    shown = [client.simulate_get(f"/v1/executions/{execution_id}").json["status"] for execution_id in ids]
    assert shown == ["running", "failed", "failed", "failed"], "the oldest one first"


def test_many_are_refused_while_the_queue_is_full(client: Client, function_id: str) -> None:
    fill(client, function_id, 2)
    assert retry_all(client).json == {"count": 0, "more": False, "left": 0}
    failed(function_id)

    answer = retry_all(client)

    assert_error(answer, 503, "has 2 executions that wait, and at most 2 may wait (ASYNC_QUEUE_LIMIT)")
    assert int(answer.headers["retry-after"]) > 0


def test_only_those_that_the_retry_means_are_counted(client: Client, function_id: str) -> None:
    other = str(client.function()["id"])
    for fields in ({}, {}, {}, {"sync": True}, {"status": "dead"}, {"project_id": "other"}):
        failed(function_id, **fields)
    failed(other)

    assert retry_all(client, function_id=function_id).json == {"count": 2, "more": True, "left": 1}
