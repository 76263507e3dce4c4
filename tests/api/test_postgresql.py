"""The main flows on PostgreSQL; the rules of rows and lists are tested on both databases in tests/models."""

from __future__ import annotations

from pathlib import Path

import pytest

from qinling_falcon.settings import Settings
from tests.api.client import Client, assert_error, package
from tests.servers.postgres import PostgresServer


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, postgres: PostgresServer) -> Settings:
    return Settings(var_dir=tmp_path, redis_url=redis_url, database_url=postgres.create_database())


def test_a_function_is_made_called_changed_and_deleted(client: Client) -> None:
    made = client.function()
    path = f"/v1/functions/{made['id']}"
    execution = client.simulate_post("/v1/executions", json={"function_id": made["id"], "input": {"a": "ä"}})
    assert execution.status_code == 201, execution.text
    shown = client.simulate_get(f"/v1/executions/{execution.json['id']}").json
    assert shown == execution.json
    assert client.simulate_get(path).json["count"] == 1
    assert client.form("PUT", path, [("package", package("x = 1"))]).status_code == 200
    assert_error(client.simulate_delete(f"/v1/runtimes/{made['runtime_id']}"), 403, "in use")
    assert client.simulate_delete(path).status_code == 204
    assert client.simulate_delete(f"/v1/runtimes/{made['runtime_id']}").status_code == 204
    assert client.simulate_get("/v1/executions?status=in:success,failed&input=has:ä").json == [shown]


def test_lists_are_paged(client: Client) -> None:
    for number in range(3):
        client.runtime(name=f"r{number}")
    answer = client.simulate_get("/v1/runtimes?limit=2&sort_key=name&sort_dir=desc")
    assert [row["name"] for row in answer.json] == ["r2", "r1"]
    link = answer.headers["link"]
    assert [row["name"] for row in client.simulate_get(link[link.index("/v1/") : link.index(">")]).json] == ["r0"]


def test_text_that_no_database_holds_is_refused(client: Client) -> None:
    for body in (b'{"image": "a\\u0000b"}', b'{"image": "\\ud800"}'):
        assert_error(client.send("POST", "/v1/runtimes", body), 400)
    assert_error(client.simulate_get("/v1/runtimes?name=a%00b"), 400)
    assert_error(client.simulate_get("/v1/runtimes?marker=a%00b"), 400)
    for method in ("GET", "PUT", "DELETE"):
        assert_error(client.send(method, "/v1/aliases/a%00b"), 400, "alias_name")
