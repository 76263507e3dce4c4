"""Webhooks: made, shown, listed, changed and deleted."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from falcon import testing

from tests.api.client import REFERENCE_CLIENT, Client, assert_error

FIELDS = {
    "id", "function_id", "function_version", "function_alias", "description", "webhook_url",
    "methods", "subpaths", "pass_request", "sync", "enabled", "cors", "signature", "rate_limit",
    "project_id", "created_at", "updated_at",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
NOBODY = str(uuid.uuid4())


@pytest.fixture
def function_id(client: Client) -> str:
    """A function with the versions 1 and 2, and an alias of each."""
    function_id = str(client.function()["id"])
    for number, name in ((1, "hq-production-function"), (2, "hq-staging-function")):
        assert client.form("PUT", f"/v1/functions/{function_id}", [("timeout", str(5 + number))]).status_code == 200
        assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
        alias = {"name": name, "function_id": function_id, "function_version": number}
        assert client.simulate_post("/v1/aliases", json=alias).status_code == 201
    return function_id


def make(client: Client, **fields: Any) -> dict[str, Any]:
    answer = client.simulate_post("/v1/webhooks", json=fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


def put(client: Client, row: dict[str, Any], **fields: Any) -> testing.Result:
    return client.simulate_put(f"/v1/webhooks/{row['id']}", json=fields)


def test_a_webhook_is_made_as_the_reference_shows(client: Client, function_id: str) -> None:
    answer = client.simulate_post(
        "/v1/webhooks",
        json={"function_id": function_id, "description": "Webhook triggered by Jenkins", "function_version": 2},
    )

    assert answer.status_code == 201
    row = answer.json
    assert set(row) == FIELDS
    assert (row["function_id"], row["function_version"], row["function_alias"]) == (function_id, 2, None)
    assert (row["description"], row["project_id"]) == ("Webhook triggered by Jenkins", "default")
    assert TIME.fullmatch(row["created_at"])
    assert row["updated_at"] is None
    assert row["webhook_url"] == f"http://localhost:7070/v1/webhooks/{row['id']}/invoke"
    assert answer.headers["location"] == f"http://localhost:7070/v1/webhooks/{row['id']}"
    assert client.simulate_get(f"/v1/webhooks/{row['id']}").json == row
    assert client.simulate_get("/v1/webhooks").json == [row]


def test_a_webhook_of_an_alias_is_made_as_the_reference_shows(client: Client, function_id: str) -> None:
    body = {
        "function_alias": "hq-production-function",
        "description": "Webhook based on function alias triggered by Jenkins",
    }
    row = make(client, **body)
    assert {name: row[name] for name in body} == body
    assert (row["function_id"], row["function_version"]) == (None, None)
    both = make(client, function_id=NOBODY, function_version=9, **body)
    assert (both["function_id"], both["function_version"]) == (None, None)
    assert both["function_alias"] == "hq-production-function"


def test_without_a_version_it_is_the_function_itself(client: Client, function_id: str) -> None:
    row = make(client, function_id=function_id.upper())
    assert (row["function_id"], row["function_version"], row["description"]) == (function_id, 0, None)


@pytest.mark.parametrize(
    ("body", "status", "word", "field"),
    [
        ({}, 400, "function_id or function_alias is required", "function_id"),
        ({"function_version": 1}, 400, "function_id or function_alias is required", "function_id"),
        ({"function_id": None, "function_alias": None}, 400, "function_id or function_alias", "function_id"),
        ({"function_id": "7"}, 400, "Expected a uuid but received 7", "function_id"),
        ({"function_id": NOBODY}, 404, "function_id: Function", "function_id"),
        ({"function_id": "OURS", "function_version": 3}, 404, "function_version: Version 3", "function_version"),
        ({"function_id": "OURS", "function_version": -1}, 400, "function_version", "function_version"),
        ({"function_id": "OURS", "function_version": "one"}, 400, "whole number", "function_version"),
        ({"function_id": "OURS", "function_version": 1 << 40}, 400, "function_version", "function_version"),
        ({"function_alias": "test"}, 404, "function_alias: Alias 'test'", "function_alias"),
        ({"function_alias": ""}, 400, "must not be empty", "function_alias"),
        ({"function_alias": 7}, 400, "must be text", "function_alias"),
        ({"function_id": "OURS", "description": "x" * 256}, 400, "255", "description"),
        ({"function_id": "OURS", "version_number": 2}, 400, "Unknown field: version_number", "version_number"),
        ({"function_id": "OURS", "webhook_url": "http://x"}, 400, "Unknown field: webhook_url", "webhook_url"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused_naming_the_field(
    client: Client, function_id: str, body: dict[str, Any], status: int, word: str, field: str
) -> None:
    fields = {name: function_id if value == "OURS" else value for name, value in body.items()}
    answer = client.simulate_post("/v1/webhooks", json=fields)
    assert_error(answer, status, word)
    assert set(answer.json["errors"]) == {field}
    assert client.simulate_get("/v1/webhooks").json == []


def test_a_webhook_is_changed_as_the_reference_shows(client: Client, function_id: str) -> None:
    made = make(client, function_id=function_id, description="Webhook triggered by Jenkins", function_version=2)
    answer = put(
        client, made, function_id=function_id, description="Webhook triggered by Gitlab", function_version=2
    )
    assert answer.status_code == 202
    assert TIME.fullmatch(answer.json["updated_at"])
    expected = made | {"description": "Webhook triggered by Gitlab", "updated_at": answer.json["updated_at"]}
    assert answer.json == expected
    assert answer.headers["location"] == f"http://localhost:7070/v1/webhooks/{made['id']}"
    assert client.simulate_get(f"/v1/webhooks/{made['id']}").json == expected

    body = {
        "description": "Webhook based on function alias triggered by Gitlab",
        "function_alias": "hq-staging-function",
    }
    answer = put(client, made, **body)
    assert answer.status_code == 202
    row = answer.json
    assert row == expected | body | {
        "function_id": None,
        "function_version": None,
        "updated_at": row["updated_at"],
    }


def test_a_function_takes_the_place_of_an_alias(client: Client, function_id: str) -> None:
    made = make(client, function_alias="hq-production-function")
    answer = put(client, made, function_version=2)
    assert_error(answer, 400, "function_id: required with function_version")
    assert set(answer.json["errors"]) == {"function_id"}
    row = put(client, made, function_id=function_id, function_version="1", function_alias=None).json
    assert (row["function_id"], row["function_version"], row["function_alias"]) == (function_id, 1, None)
    other = str(client.function()["id"])
    row = put(client, made, function_id=other).json
    assert (row["function_id"], row["function_version"], row["function_alias"]) == (other, 0, None)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 3}, 404, "function_version"),
        ({"function_alias": "test"}, 404, "function_alias"),
        ({"function_id": "7"}, 400, "function_id"),
        ({"function_version": "new"}, 400, "function_version"),
        ({"description": []}, 400, "description"),
        ({"project_id": "mine"}, 400, "project_id"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(
    client: Client, function_id: str, body: dict[str, Any], status: int, word: str
) -> None:
    made = make(client, function_id=function_id, function_version=1)
    answer = put(client, made, **{"description": "new"} | body)
    assert_error(answer, status, word)
    assert set(answer.json["errors"]) == {word}
    assert client.simulate_get(f"/v1/webhooks/{made['id']}").json == made


def test_the_reference_client_s_requests_are_served(client: Client, function_id: str) -> None:
    path = "/v1/webhooks"
    body = {"function_id": None, "function_version": None, "function_alias": "hq-production-function"}
    answer = client.simulate_post(path, json=body, headers=REFERENCE_CLIENT)
    assert answer.status_code == 201
    body = {"function_id": function_id, "function_version": 0, "function_alias": None, "colour": "red"}
    made = client.simulate_post(path, json=body, headers=REFERENCE_CLIENT).json
    assert (made["function_id"], made["function_version"], made["function_alias"]) == (function_id, 0, None)
    listed = client.send("GET", f"{path}?function_alias=eq:hq-production-function", headers=REFERENCE_CLIENT)
    assert listed.json == {"webhooks": [answer.json]}
    one = f"{path}/{made['id']}"
    assert client.send("GET", one, headers=REFERENCE_CLIENT).json == made
    nulls = {"function_id": None, "function_version": "2", "description": None}
    changed = client.simulate_put(one, json=nulls, headers=REFERENCE_CLIENT)
    assert changed.status_code == 202
    assert changed.json == made | {"function_version": 2, "updated_at": changed.json["updated_at"]}


def test_an_update_with_nothing_to_change_answers_with_the_webhook(client: Client, function_id: str) -> None:
    made = make(client, function_id=function_id)
    json = "application/json"
    for body, content_type in ((b"", None), (b"", json), (b"{}", json), (b'{"function_id": null}', json)):
        answer = client.send("PUT", f"/v1/webhooks/{made['id']}", body, content_type=content_type)
        assert (answer.status_code, answer.json) == (202, made)
        assert answer.headers["location"].endswith(f"/v1/webhooks/{made['id']}")


def test_the_url_is_the_one_that_users_reach_the_service_by(
    client: Client, client_with: Callable[..., Client], function_id: str
) -> None:
    made = make(client, function_id=function_id)
    one, tail = f"/v1/webhooks/{made['id']}", f"/v1/webhooks/{made['id']}/invoke"
    behind = client_with(public_endpoint="https://engine.example/qinling/")
    assert behind.simulate_get(one).json["webhook_url"] == f"https://engine.example/qinling{tail}"
    assert behind.simulate_get("/v1/webhooks").json[0]["webhook_url"] == f"https://engine.example/qinling{tail}"
    assert put(behind, made).json["webhook_url"] == f"https://engine.example/qinling{tail}"
    assert put(behind, made, description="d").headers["location"] == f"https://engine.example/qinling{one}"
    assert client.simulate_get(one, headers={"Host": "127.0.0.7:80"}).json["webhook_url"] == f"http://127.0.0.7:80{tail}"


def test_webhooks_are_deleted_and_only_then_what_they_name(client: Client, function_id: str) -> None:
    made = make(client, function_alias="hq-production-function")
    assert_error(client.simulate_delete("/v1/aliases/hq-production-function"), 403, "in use", made["id"])
    answer = client.simulate_delete(f"/v1/webhooks/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PUT", "DELETE"):
        body = b'{"description": "d"}' if method == "PUT" else b""
        assert_error(client.send(method, f"/v1/webhooks/{made['id']}", body), 404, "webhook")
        assert_error(client.send(method, "/v1/webhooks/seven", body), 400, "Expected a uuid but received seven")
    assert client.simulate_delete("/v1/aliases/hq-production-function").status_code == 204


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["first", "second", "third"]),
        ("sort_dir=desc&limit=2", ["third", "second"]),
        ("sort_key=updated_at&sort_dir=desc", ["second", "third", "first"]),
        ("function_id=OURS", ["first", "second"]),
        ("function_version=gt:0", ["second"]),
        ("function_alias=has:staging", ["third"]),
        ("description=in:first,third", ["first", "third"]),
        ("project_id=default", ["first", "second", "third"]),
        ("created_at=gt:2020-01-01", ["first", "second", "third"]),
        ("updated_at=gt:2020-01-01", ["second"]),
        ("id=THIRD", ["third"]),
    ],
)
def test_webhooks_are_listed_filtered_and_sorted(
    client: Client, function_id: str, query: str, expected: list[str]
) -> None:
    make(client, function_id=function_id, description="first")
    second = make(client, function_id=function_id)
    third = make(client, function_alias="hq-staging-function", description="third")
    put(client, second, function_version=1, description="second")
    query = query.replace("OURS", function_id).replace("THIRD", third["id"])
    assert [row["description"] for row in client.simulate_get("/v1/webhooks", query_string=query).json] == expected


@pytest.mark.parametrize("query", ["webhook_url=x", "sort_key=description", "sort_key=function_alias", "limit=0"])
def test_what_a_list_of_webhooks_can_not_do_is_refused(client: Client, query: str) -> None:
    assert_error(client.simulate_get("/v1/webhooks", query_string=query), 400, query.split("=")[0])


def test_pages_and_envelopes(client_with: Callable[..., Client], client: Client, function_id: str) -> None:
    rows = [make(client, function_id=function_id) for _ in range(3)]
    client = client_with(list_envelope="always")
    answer = client.simulate_get("/v1/webhooks?limit=2")
    assert answer.json["webhooks"] == rows[:2]
    following = answer.json["next"]
    assert client.simulate_get(following[following.index("/v1/") :]).json == {"webhooks": rows[2:]}
