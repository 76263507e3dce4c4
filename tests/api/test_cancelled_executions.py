"""Cancelled executions: their retry waits for the end of their function, and a deletion is for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from qinling_falcon.invocation import cancellation
from qinling_falcon.models import execution_retries as models
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.lua import ANCHOR
from qinling_falcon.resources import execution_retries
from tests.api.client import Client

JOURNAL = f"{ANCHOR}:journal:worker:1"


@pytest.fixture
def cancelled(client: Client, function_id: str) -> Callable[[], str]:
    """Makes executions that were cancelled."""

    def make() -> str:
        made = client.simulate_post("/v1/executions", json={"function_id": function_id, "sync": False})
        execution_id = str(made.json["id"])
        answer = client.simulate_put(f"/v1/executions/{execution_id}", json={"status": "cancelled"})
        assert answer.status_code == 202
        return execution_id

    return make


@pytest.fixture
def begin(connection: PipelinedConnection) -> Callable[[str], None]:
    """Lets a process run the function of an execution."""

    def note(execution_id: str) -> None:
        connection.call("ZADD", f"{ANCHOR}:holders", 1, "worker:1")
        connection.call("HSET", JOURNAL, execution_id, "w1 1 detail")

    return note


def retry(client: Client, execution_id: str) -> int:
    return int(client.simulate_post(f"/v1/executions/{execution_id}/retry").status_code)


@pytest.mark.parametrize("where", [JOURNAL, f"{ANCHOR}:lost"])
def test_while_the_function_still_runs_a_retry_is_refused(
    client: Client,
    cancelled: Callable[[], str],
    begin: Callable[[str], None],
    connection: PipelinedConnection,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    monkeypatch.setattr(cancellation, "LONGEST_END_S", 0.1)
    execution_id = cancelled()
    begin(execution_id)
    connection.call("DEL", JOURNAL)
    connection.call("HSET", where, execution_id, "w1 1 detail")

    answer = client.simulate_post(f"/v1/executions/{execution_id}/retry")

    assert answer.status_code == 409
    assert "has not ended yet" in answer.json["faultstring"]
    assert client.simulate_get(f"/v1/executions/{execution_id}").json["status"] == "cancelled"
    connection.call("DEL", where)
    assert retry(client, execution_id) == 202


def test_a_retry_waits_for_the_end_of_the_function(
    client: Client, cancelled: Callable[[], str], begin: Callable[[str], None], connection: PipelinedConnection
) -> None:
    execution_id = cancelled()
    begin(execution_id)
    retrying = gevent.spawn(retry, client, execution_id)
    gevent.sleep(0.1)
    assert client.simulate_get(f"/v1/executions/{execution_id}").json["status"] == "cancelled"

    connection.call("DEL", JOURNAL)

    assert retrying.get(timeout=5) == 202


def test_a_retry_of_all_cancelled_ones_leaves_out_those_that_still_run(
    client: Client,
    cancelled: Callable[[], str],
    begin: Callable[[str], None],
    connection: PipelinedConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution_retries, "_LONGEST_S", 0.1)
    ids = [cancelled() for _ in range(3)]
    begin(ids[1])

    answer = client.simulate_post("/v1/executions/retry", json={"status": "cancelled"})

    assert (answer.status_code, answer.json) == (200, {"count": 2, "more": True, "left": 1})
    states = [client.simulate_get(f"/v1/executions/{one}").json["status"] for one in ids]
    assert states == ["running", "cancelled", "running"]
    connection.call("DEL", JOURNAL)
    answer = client.simulate_post("/v1/executions/retry", json={"status": "cancelled"})
    assert answer.json == {"count": 1, "more": False, "left": 0}


def test_a_retry_waits_also_if_the_execution_is_cancelled_while_it_is_looked_at(
    client: Client,
    function_id: str,
    begin: Callable[[str], None],
    connection: PipelinedConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = client.simulate_post("/v1/executions", json={"function_id": function_id, "sync": False})
    execution_id = str(made.json["id"])
    begin(execution_id)
    check = models.check

    def cancel_first(*args: Any) -> None:
        client.simulate_put(f"/v1/executions/{execution_id}", json={"status": "cancelled"})
        check(*args)

    monkeypatch.setattr(models, "check", cancel_first)
    retrying = gevent.spawn(retry, client, execution_id)
    gevent.sleep(0.3)
    assert client.simulate_get(f"/v1/executions/{execution_id}").json["status"] == "cancelled"

    connection.call("DEL", JOURNAL)

    assert retrying.get(timeout=5) == 202


def test_a_retry_of_all_goes_on_if_another_request_takes_one_of_them(
    client: Client, cancelled: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_retries, "_BATCH", 2)
    ids = [cancelled() for _ in range(5)]
    find_some = models.find_some

    def lose_one(*args: Any) -> dict[str, Any]:
        found = find_some(*args)
        monkeypatch.setattr(models, "find_some", find_some)
        assert client.simulate_delete(f"/v1/executions/{next(iter(found))}").status_code == 204
        return found

    monkeypatch.setattr(models, "find_some", lose_one)

    answer = client.simulate_post("/v1/executions/retry", json={"status": "cancelled"})

    assert answer.json == {"count": 4, "more": False, "left": 0}
    states = [client.simulate_get(f"/v1/executions/{one}").json["status"] for one in ids[1:]]
    assert states == ["running"] * 4


def test_a_retry_of_all_looks_behind_those_that_still_run(
    client: Client, cancelled: Callable[[], str], begin: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_retries, "_BATCH", 2)
    monkeypatch.setattr(execution_retries, "_LONGEST_S", 1.0)
    ids = [cancelled() for _ in range(6)]
    for one in ids[:4]:
        begin(one)

    answer = client.simulate_post("/v1/executions/retry", json={"status": "cancelled"})

    assert answer.json == {"count": 2, "more": True, "left": 4}


def test_a_deleted_execution_does_not_come_back_when_a_journal_still_has_it(
    client: Client, cancelled: Callable[[], str], connection: PipelinedConnection
) -> None:
    """Redis was away while it was deleted, or the process that ran it is silent."""
    execution_id = cancelled()
    row = client.simulate_get(f"/v1/executions/{execution_id}").json
    assert client.simulate_delete(f"/v1/executions/{execution_id}").status_code == 204
    detail = {"id": execution_id, "project_id": row["project_id"], "function_id": row["function_id"]}
    connection.call("ZADD", f"{ANCHOR}:holders", 1, "worker:1")
    value = json.dumps(detail | {"function_version": 0, "created_at": 1, "attempt": 1, "claim": 1})
    connection.call("HSET", JOURNAL, execution_id, f"w1 1 {value}")

    assert client.simulate_get(f"/v1/executions/{execution_id}").status_code == 404
    answer = client.simulate_put(f"/v1/executions/{execution_id}", json={"status": "cancelled"})
    assert answer.status_code == 404
