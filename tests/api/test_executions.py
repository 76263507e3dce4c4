"""Executions: created, shown, listed, logged, deleted."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import clock, database, execution_queue
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.pool.pool import Pool
from tests.api.client import REFERENCE_CLIENT, Client, assert_error
from tests.api.fake_engine import FakeEngine

FIELDS = {
    "id", "function_id", "function_version", "function_alias", "description", "input", "result", "status",
    "status_reason", "sync", "source", "cold", "queued_ms", "run_ms", "attempt", "webhook_id", "job_id", "request_id",
    "project_id", "created_at", "updated_at",
}  # fmt: skip


def call(client: Client, **body: Any) -> Any:
    return client.simulate_post("/v1/executions", json=body)


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


def stored(function_id: str, **fields: Any) -> ExecutionRecord:
    """An execution that is in the database."""
    now = clock.now()
    values: dict[str, Any] = {"id": str(uuid.uuid4()), "project_id": "default", "status": "success", "log": "the log"}
    made = ExecutionRecord(**values | {"function_id": function_id, "created_at": now, "updated_at": now} | fields)
    record(made)
    return made


def test_an_execution_is_answered_with_its_result_and_found_again(client: Client, function_id: str) -> None:
    answer = call(client, function_id=function_id, description="d")

    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == FIELDS
    assert (row["status"], row["sync"], row["source"], row["function_version"]) == ("success", True, "api", 0)
    assert (row["description"], row["input"], row["function_alias"]) == ("d", None, None)
    assert json.loads(row["result"]) == {"duration": 0.044, "output": "Hello"}
    assert answer.headers["location"].endswith(f"/v1/executions/{row['id']}")
    assert client.simulate_get(f"/v1/executions/{row['id']}").json == row
    assert client.simulate_get("/v1/executions").json == [row]
    assert client.simulate_get(f"/v1/functions/{function_id}").json["count"] == 1


def test_a_synchronous_call_says_where_its_time_went(client: Client, function_id: str) -> None:
    timing = call(client, function_id=function_id).headers["server-timing"]
    assert re.fullmatch(r"platform;dur=\d+\.\d{3}, queue;dur=\d+\.\d{3}, run;dur=44\.000", timing)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, None),
        ("", ""),
        ("plain text", "plain text"),
        ('{"name": "foo"}', '{"name": "foo"}'),
        ({"name": "föö"}, '{"name": "föö"}'),
        ([1, 2], "[1, 2]"),
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        (False, "false"),
        (10**30, str(10**30)),
    ],
)
def test_the_input_arrives_as_text(
    client: Client, engine: FakeEngine, function_id: str, given: Any, text: str | None
) -> None:
    answer = call(client, function_id=function_id, input=given)
    assert answer.json["input"] == text
    assert engine.calls[-1].input == text


def test_a_call_carries_the_id_of_its_request(client: Client, engine: FakeEngine, function_id: str) -> None:
    client.simulate_post("/v1/executions", json={"function_id": function_id}, headers={"X-Request-Id": "mine-7"})
    assert engine.calls[-1].request_id == "mine-7"


def test_numbers_and_truth_come_as_text_too(client: Client, engine: FakeEngine, function_id: str) -> None:
    client.send("POST", f"/v1/functions/{function_id}/versions")
    assert call(client, function_id=function_id.upper(), function_version="1", sync="True").status_code == 201
    assert (engine.calls[-1].function_version, engine.calls[-1].function_id) == (1, function_id)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 400, "function_id or function_alias"),
        ({"function_id": None, "function_alias": None}, 400, "function_id or function_alias"),
        ({"function_id": "7"}, 400, "Expected a uuid but received 7"),
        ({"function_id": 7}, 400, "uuid"),
        ({"function_id": str(uuid.uuid4())}, 404, "function"),
        ({"function_alias": "prod"}, 404, "function_alias: Alias 'prod' not found"),
        ({"function_id": "OURS", "function_alias": "prod"}, 404, "function_alias: Alias 'prod' not found"),
        ({"function_id": "OURS", "function_version": -1}, 400, "function_version"),
        ({"function_id": "OURS", "function_version": 1 << 40}, 400, "function_version"),
        ({"function_id": "OURS", "function_version": 1.5}, 400, "function_version"),
        ({"function_id": "OURS", "function_version": True}, 400, "function_version"),
        ({"function_id": "OURS", "sync": "maybe"}, 400, "sync"),
        ({"function_id": "OURS", "description": "x" * 256}, 400, "description"),
        ({"function_id": "OURS", "description": {}}, 400, "description"),
        ({"function_id": "OURS", "timeout": 5}, 400, "Unknown field: timeout"),
        ([], 400, "object"),
        ("text", 400, "object"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_and_not_made(
    client: Client, engine: FakeEngine, function_id: str, body: Any, status: int, word: str
) -> None:
    text = json.dumps(body).replace("OURS", function_id)
    assert_error(client.send("POST", "/v1/executions", text.encode()), status, word)
    assert client.simulate_get("/v1/executions").json == []


def test_the_reference_client_may_send_what_nobody_knows(client: Client, function_id: str) -> None:
    body = {"function_id": function_id, "colour": 1}
    assert client.simulate_post("/v1/executions", json=body, headers=REFERENCE_CLIENT).status_code == 201


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f600"])
def test_an_input_above_the_limit_is_refused(client_with: Any, function_id: str, letter: str) -> None:
    client = client_with(max_input_size=64)
    fits = letter * (64 // len(letter.encode()))
    assert call(client, function_id=function_id, input=fits).status_code == 201
    assert_error(call(client, function_id=function_id, input=fits + letter), 413, "input")


def test_a_call_without_a_free_worker_says_when_to_come_back(
    client: Client, engine: FakeEngine, function_id: str
) -> None:
    engine.error = Unavailable("No worker was free in time", retry_after_s=3)
    answer = call(client, function_id=function_id)
    assert_error(answer, 503, "no worker")
    assert answer.headers["retry-after"] == "3"


def test_the_log_is_text_in_utf_8(client: Client, function_id: str) -> None:
    row = call(client, function_id=function_id).json
    answer = client.simulate_get(f"/v1/executions/{row['id']}/log")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content.decode() == "Start execution: x\nHällo\nFinished execution: x\n"


def test_executions_outlive_their_function_and_are_deleted_by_themselves(client: Client, function_id: str) -> None:
    path = f"/v1/executions/{call(client, function_id=function_id).json['id']}"
    client.simulate_delete(f"/v1/functions/{function_id}")
    assert client.simulate_get(path).status_code == 200
    answer = client.simulate_delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    for method, end in (("GET", ""), ("GET", "/log"), ("DELETE", "")):
        assert_error(client.simulate_request(method, path + end), 404, "execution")


def test_a_running_execution_is_known_from_its_lease(
    client: Client, pool: Pool, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = str(uuid.uuid4())
    detail = {
        "id": execution_id, "project_id": "default", "function_id": function_id, "function_version": 0,
        "function_alias": None, "description": "d", "input": "5", "source": "api",
        "created_at": clock.to_micros(clock.now()),
    }  # fmt: skip
    monkeypatch.setattr(pool, "find", lambda wanted: json.dumps(detail) if wanted == execution_id else None)
    path = f"/v1/executions/{execution_id}"
    row = client.simulate_get(path).json
    assert set(row) == FIELDS
    assert (row["status"], row["result"], row["input"], row["description"]) == ("running", None, "5", "d")
    assert client.simulate_get(f"{path}/log").content == b""
    assert client.simulate_put(path, json={"status": "cancelled"}).json["status"] == "cancelled"
    assert client.simulate_delete(path).status_code == 204


def test_a_running_execution_with_a_row_is_cancelled_and_deleted(client: Client, function_id: str) -> None:
    running = stored(function_id, status="running", updated_at=None, log=None)
    path = f"/v1/executions/{running.id}"
    assert client.simulate_get(path).json["status"] == "running"
    assert client.simulate_get(f"{path}/log").content == b""
    assert client.simulate_delete(path).status_code == 204
    assert_error(client.simulate_get(path), 404, "execution")


def test_an_asynchronous_execution_is_accepted_and_shown_with_its_attempt(client: Client, function_id: str) -> None:
    answer = call(client, function_id=function_id, sync=False)
    assert answer.status_code == 201, answer.text
    assert set(answer.json) == FIELDS
    assert (answer.json["status"], answer.json["sync"], answer.json["attempt"]) == ("running", False, 0)
    path = f"/v1/executions/{answer.json['id']}"
    assert client.simulate_get(path).json == answer.json

    now = clock.now()
    execution_queue.claim([answer.json["id"]], now, now)
    assert client.simulate_get(path).json["attempt"] == 1


def test_a_list_shows_the_attempts_of_executions_that_run_and_compares_them(client: Client, function_id: str) -> None:
    ended = stored(function_id, sync=False, attempt=3).id
    synchronous = stored(function_id, status="running", updated_at=None, log=None).id
    waiting, first, second = (call(client, function_id=function_id, sync=False).json["id"] for _ in range(3))
    for execution_id in (first, second, second):
        now = clock.now()
        assert execution_queue.claim([execution_id], now, now)
    attempts = {ended: 3, synchronous: 1, waiting: 0, first: 1, second: 2}

    listed = client.simulate_get("/v1/executions").json
    assert {row["id"]: row["attempt"] for row in listed} == attempts
    assert listed == [client.simulate_get(f"/v1/executions/{execution_id}").json for execution_id in attempts]
    for query, expected in (
        ("attempt=1", {synchronous, first}),
        ("attempt=neq:1", {ended, waiting, second}),
        ("attempt=in:0,2&status=running", {waiting, second}),
        ("attempt=gte:2&sort_key=updated_at&limit=5", {ended, second}),
    ):
        rows = client.simulate_get("/v1/executions", query_string=query).json
        assert {row["id"] for row in rows} == expected, query


def test_a_list_of_executions_takes_one_statement(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(function_id)
    assert call(client, function_id=function_id, sync=False).status_code == 201
    statements: list[str] = []
    execute = database.engine().execute_sql
    monkeypatch.setattr(
        database.engine(), "execute_sql", lambda sql, *values: statements.append(sql) or execute(sql, *values)
    )

    assert len(client.simulate_get("/v1/executions").json) == 2

    assert len([sql for sql in statements if sql.startswith("SELECT")]) == 1, statements


def test_a_project_may_have_only_so_many_executions_that_wait(client_with: Any) -> None:
    client = client_with(async_queue_limit=2)
    function_id = client.function()["id"]
    for _ in range(2):
        assert call(client, function_id=function_id, sync=False).status_code == 201

    answer = call(client, function_id=function_id, sync=False)

    assert_error(answer, 503, "has 2 executions that wait, and at most 2 may wait (ASYNC_QUEUE_LIMIT)")
    assert int(answer.headers["retry-after"]) > 0
    assert len(client.simulate_get("/v1/executions").json) == 2


def test_an_execution_is_not_accepted_for_a_function_that_was_deleted_meanwhile(
    client: Client, function_id: str
) -> None:
    assert call(client, function_id=function_id, sync=False).status_code == 201
    assert client.simulate_delete(f"/v1/functions/{function_id}").status_code == 204
    assert_error(call(client, function_id=function_id, sync=False), 404, "function")


def test_executions_are_filtered_by_what_they_show(client: Client, function_id: str) -> None:
    good = stored(function_id, description="nightly run")
    bad = stored(function_id, status="failed", function_version=2, sync=False)
    other = stored(str(uuid.uuid4()), status="error")
    for query, expected in (
        ("", [good, bad, other]),
        (f"function_id={function_id}", [good, bad]),
        ("status=failed", [bad]),
        ("status=in:failed,error", [bad, other]),
        ("status=neq:success&function_version=gte:1", [bad]),
        ("description=has:night", [good]),
        ("sync=False", [bad]),
        ("sync=true&sort_dir=desc", [other, good]),
        (f"created_at=gte:{bad.created_at.isoformat()}", [bad, other]),
        ("status=nothing", []),
    ):
        rows = client.simulate_get("/v1/executions", query_string=query.replace("+00:00", "Z")).json
        assert [row["id"] for row in rows] == [row.id for row in expected], query


def test_executions_of_other_projects_are_listed_when_an_admin_asks(client: Client, function_id: str) -> None:
    mine, theirs = stored(function_id), stored(function_id, project_id="theirs")
    for query, expected in (("", [mine]), ("all_projects=True", [mine, theirs]), ("project_id=theirs", [theirs])):
        rows = client.simulate_get("/v1/executions", query_string=query).json
        assert [row["id"] for row in rows] == [row.id for row in expected], query
    assert client.simulate_get(f"/v1/executions/{theirs.id}").status_code == 200
    assert_error(client.simulate_delete(f"/v1/executions/{theirs.id}"), 403)
