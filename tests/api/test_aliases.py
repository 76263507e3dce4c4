"""Aliases: names that calls, webhooks and jobs can use for a version of a function."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from falcon import testing, uri

from qinling_falcon.api import create_app
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.services import Services
from tests.api.client import REFERENCE_CLIENT, Client, assert_error


@pytest.fixture
def function_id(client: Client) -> str:
    """A function with the versions 1 and 2."""
    function_id = str(client.function()["id"])
    for timeout in (6, 7):
        assert client.form("PUT", f"/v1/functions/{function_id}", [("timeout", str(timeout))]).status_code == 200
        assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
    return function_id


def make(client: Client, **fields: Any) -> testing.Result:
    return client.simulate_post("/v1/aliases", json=fields)


def call(client: Client, **fields: Any) -> testing.Result:
    return client.simulate_post("/v1/executions", json=fields)


def test_an_alias_is_made_shown_and_listed(client: Client, function_id: str) -> None:
    answer = make(client, name="prod", function_id=function_id, function_version=1, description="d")
    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == {
        "id", "name", "function_id", "function_version", "description", "routing", "project_id", "created_at",
        "updated_at",
    }  # fmt: skip
    assert (row["name"], row["function_id"], row["function_version"]) == ("prod", function_id, 1)
    assert (row["description"], row["routing"], row["updated_at"]) == ("d", None, None)
    assert answer.headers["location"].endswith("/v1/aliases/prod")
    assert client.simulate_get("/v1/aliases/prod").json == row
    assert client.simulate_get("/v1/aliases").json == [row]
    assert client.simulate_get("/v1/aliases", headers=REFERENCE_CLIENT).json == {"function_aliases": [row]}
    assert client.simulate_get("/v1/aliases", params={"name": "neq:prod"}).json == []


def test_the_version_is_0_unless_given_and_has_two_names(client: Client, function_id: str) -> None:
    assert make(client, name="a", function_id=function_id).json["function_version"] == 0
    assert make(client, name="b", function_id=function_id, version="2").json["function_version"] == 2
    both = make(client, name="c", function_id=function_id, version=1, function_version=2)
    assert_error(both, 400, "version and function_version are the same field")


@pytest.mark.parametrize("name", ["a b", "a+b", "v1.2", "größe", "…", "a%2Fb", "x" * 255, "'\"", "null"])
def test_names_are_any_text_without_a_slash(client: Client, function_id: str, name: str) -> None:
    made = make(client, name=name, function_id=function_id)
    assert made.status_code == 201, made.text
    path = f"/v1/aliases/{uri.encode_value(name)}"
    assert made.headers["location"].endswith(path)
    assert client.simulate_get(path).json == made.json
    assert call(client, function_alias=name).json["function_alias"] == name
    assert client.simulate_delete(path).status_code == 204
    assert_error(client.simulate_get(path), 404, "not found")


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"name": None}, 400, "name: Missing data"),
        ({"name": ""}, 400, "name"),
        ({"name": "x" * 256}, 400, "name"),
        ({"name": "a/b"}, 400, "name: must hold no slash"),
        ({"name": "a\nb"}, 400, "name"),
        ({"name": "\x7f"}, 400, "name"),
        ({"name": ".."}, 400, "name"),
        ({"name": 7}, 400, "name"),
        ({"function_id": None}, 400, "function_id: Missing data"),
        ({"function_id": "7"}, 400, "uuid"),
        ({"function_id": str(uuid.uuid4())}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version: Version 9"),
        ({"function_version": -1}, 400, "function_version"),
        ({"description": "x" * 256}, 400, "description"),
        ({"weight": 1}, 400, "Unknown field: weight"),
        ({"routing": {"9": 0.5}}, 404, "routing: Version 9"),
        ({"routing": {"1": 0.5}}, 400, "routing: version 1 is the alias's function_version"),
        ({"routing": {"2": 1.01}}, 400, "weight"),
        ({"routing": {"2": -0.1}}, 400, "weight"),
        ({"routing": {"2": True}}, 400, "weight"),
        ({"routing": {"2": "0.5"}}, 400, "weight"),
        ({"routing": {"two": 0.5}}, 400, "no version number"),
        ({"routing": {"0": 0.2, "2": 0.2}}, 400, "exactly one"),
        ({"routing": [2, 0.5]}, 400, "exactly one"),
        ({"routing": "2"}, 400, "exactly one"),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: Client, function_id: str, fields: dict[str, Any], status: int, word: str
) -> None:
    answer = make(client, **({"name": "prod", "function_id": function_id, "function_version": 1} | fields))
    assert_error(answer, status, word)
    assert client.simulate_get("/v1/aliases").json == []


def test_a_name_is_taken_once_in_a_project(client: Client, function_id: str) -> None:
    assert make(client, name="prod", function_id=function_id).status_code == 201
    assert_error(make(client, name="prod", function_id=function_id), 409, "prod", "exists already")
    assert make(client, name="stage", function_id=function_id).status_code == 201


def test_an_update_changes_what_is_given(client: Client, function_id: str) -> None:
    made = make(client, name="prod", function_id=function_id, function_version=1).json
    answer = client.simulate_put("/v1/aliases/prod", json={"function_version": 2, "description": "d"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"].endswith("/v1/aliases/prod")
    assert (answer.json["function_version"], answer.json["description"]) == (2, "d")
    assert answer.json["updated_at"] is not None
    nulls = {"function_id": None, "function_version": None, "description": None, "routing": None}
    assert client.simulate_put("/v1/aliases/prod", json=nulls).json == answer.json
    assert client.send("PUT", "/v1/aliases/prod", b"", None).json == answer.json
    assert answer.json["id"] == made["id"]


def test_another_function_without_a_version_means_its_version_0(client: Client, function_id: str) -> None:
    make(client, name="prod", function_id=function_id, function_version=1, routing={"2": 0.1})
    other = client.function()["id"]
    answer = client.simulate_put("/v1/aliases/prod", json={"function_id": other})
    assert (answer.json["function_id"], answer.json["function_version"]) == (other, 0)
    assert answer.json["routing"] is None
    back = client.simulate_put("/v1/aliases/prod", json={"function_id": function_id, "function_version": 2})
    assert (back.json["function_id"], back.json["function_version"]) == (function_id, 2)


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"function_id": str(uuid.uuid4())}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_version": 2}, 400, "routing"),  # which is the routing's
        ({"name": "other"}, 400, "name: an alias keeps its name"),
        ({"routing": {"1": 0.5}}, 400, "routing"),
    ],
)
def test_a_refused_update_changes_nothing(
    client: Client, function_id: str, fields: dict[str, Any], status: int, word: str
) -> None:
    made = make(client, name="prod", function_id=function_id, function_version=1, routing={"2": 0.1}).json
    assert_error(client.simulate_put("/v1/aliases/prod", json=fields), status, word)
    assert client.simulate_get("/v1/aliases/prod").json == made
    assert call(client, function_alias="prod").status_code == 201


def test_calls_follow_an_update_from_the_next_one_on(client: Client, function_id: str) -> None:
    make(client, name="prod", function_id=function_id, function_version=1)
    for version in (1, 2, 0, 1):
        client.simulate_put("/v1/aliases/prod", json={"function_version": version})
        execution = call(client, function_alias="prod").json
        assert (execution["function_version"], execution["function_alias"]) == (version, "prod")
        assert execution["function_id"] == function_id


def test_an_alias_wins_over_an_id(client: Client, function_id: str) -> None:
    make(client, name="prod", function_id=function_id, function_version=1)
    execution = call(client, function_alias="prod", function_id=client.function()["id"], function_version=2).json
    assert (execution["function_id"], execution["function_version"]) == (function_id, 1)


def test_a_routing_sends_its_share_of_calls_to_the_other_version(client: Client, function_id: str) -> None:
    made = make(client, name="canary", function_id=function_id, function_version=1, routing={"2": 0.3})
    assert made.json["routing"] == {"2": 0.3}
    drawn = [call(client, function_alias="canary").json["function_version"] for _ in range(200)]
    assert set(drawn) == {1, 2}
    assert 30 <= drawn.count(2) <= 90  # 60 expected; outside once in a million runs
    for share, version in ((1, 2), (0, 1)):
        client.simulate_put("/v1/aliases/canary", json={"routing": {"2": share}})
        assert {call(client, function_alias="canary").json["function_version"] for _ in range(20)} == {version}
    client.simulate_put("/v1/aliases/canary", json={"routing": {"2": 1}})
    ended = client.simulate_put("/v1/aliases/canary", json={"routing": {}})
    assert ended.json["routing"] is None
    assert call(client, function_alias="canary").json["function_version"] == 1


def test_a_deleted_alias_is_not_called_again_and_its_name_is_free(client: Client, function_id: str) -> None:
    make(client, name="prod", function_id=function_id, function_version=1)
    assert call(client, function_alias="prod").status_code == 201
    assert client.simulate_delete("/v1/aliases/prod").status_code == 204
    assert_error(call(client, function_alias="prod"), 404, "function_alias: Alias 'prod' not found")
    for method in ("GET", "PUT", "DELETE"):
        assert_error(client.send(method, "/v1/aliases/prod"), 404, "not found")
    make(client, name="prod", function_id=function_id, function_version=2)
    assert call(client, function_alias="prod").json["function_version"] == 2


def test_an_alias_of_an_image_function_follows_too(client: Client, function_id: str) -> None:
    image = client.simulate_post("/v1/functions", json={"name": "i", "code": {"source": "image", "image": "a/b"}})
    make(client, name="prod", function_id=image.json["id"])
    assert call(client, function_alias="prod").json["function_id"] == image.json["id"]
    client.simulate_put("/v1/aliases/prod", json={"function_id": function_id})
    assert call(client, function_alias="prod").json["function_id"] == function_id


def test_nothing_changes_while_the_pool_can_not_be_told(
    client: Client, services: Services, lonely_pool: Pool, function_id: str
) -> None:
    made = make(client, name="prod", function_id=function_id).json
    lonely = Client(create_app(replace(services, pool=lonely_pool)), services.settings)
    assert_error(lonely.simulate_put("/v1/aliases/prod", json={"function_version": 1}), 503)
    assert_error(lonely.simulate_delete("/v1/aliases/prod"), 503)
    assert client.simulate_get("/v1/aliases/prod").json == made
