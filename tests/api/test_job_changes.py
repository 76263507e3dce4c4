"""Jobs are changed, cancelled, paused and deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.client import REFERENCE_CLIENT, Client, assert_error
from tests.api.jobs import NOBODY, TIME, at, make, put, show


def test_a_job_is_changed_as_the_reference_shows(client: Client, function_id: str) -> None:
    made = make(client, function_id, pattern="* * * * *", function_version=2)
    following = at(hours=3)
    body = {
        "status": "paused",
        "name": "every-minute",
        "pattern": "* * * * *",
        "function_input": '{"name": "Foo"}',
        "next_execution_time": following,
    }
    answer = put(client, made, **body)
    assert answer.status_code == 202, answer.text
    assert TIME.fullmatch(answer.json["updated_at"])
    assert answer.json == made | body | {"updated_at": answer.json["updated_at"]}
    assert answer.headers["location"] == f"http://localhost:7070/v1/jobs/{made['id']}"
    assert show(client, made) == answer.json


@pytest.mark.parametrize("spelling", ["cancelled", "canceled"])
def test_a_job_is_cancelled_in_both_spellings_and_then_ended(
    client: Client, function_id: str, spelling: str
) -> None:
    made = make(client, function_id)
    answer = put(client, made, status=spelling)
    assert (answer.status_code, answer.json["status"]) == (202, "cancelled")
    assert show(client, made) == answer.json
    for body in ({"status": "running"}, {"status": "canceled"}, {"name": "n"}):
        assert_error(put(client, made, **body), 400, "is cancelled")
    assert put(client, made).json == answer.json
    assert client.simulate_get("/v1/jobs?status=cancelled").json == [answer.json]


def test_a_paused_job_runs_again(client: Client, function_id: str) -> None:
    made = make(client, function_id, pattern="* * * * *", first_execution_time="2099-01-01 00:00")
    assert put(client, made, status="paused").json["next_execution_time"] == "2099-01-01 00:00:00"
    again = put(client, made, status="running")
    assert (again.status_code, again.json["status"]) == (202, "running")
    assert at() < again.json["next_execution_time"] <= at(minutes=1)
    once = make(client, function_id, pattern=None, first_execution_time="2099-01-01 00:00")
    put(client, once, status="paused")
    assert put(client, once, status="running").json["next_execution_time"] == "2099-01-01 00:00:00"


@pytest.mark.parametrize(
    ("body", "status", "word", "field"),
    [
        ({"status": "done"}, 400, "one of running, paused, cancelled", "status"),
        ({"status": "asleep"}, 400, "one of running", "status"),
        ({"status": ["paused"]}, 400, "one of running", "status"),
        ({"pattern": ""}, 400, "five fields", "pattern"),
        ({"pattern": "0 0 31 4 *"}, 400, "never fires", "pattern"),
        ({"next_execution_time": "2019-06-07 22:41:00"}, 400, "one minute ahead", "next_execution_time"),
        ({"next_execution_time": "soon"}, 400, "must be a time", "next_execution_time"),
        ({"name": "x" * 256}, 400, "255", "name"),
        ({"count": 3}, 400, "Unknown field: count", "count"),
        ({"function_id": NOBODY}, 400, "Unknown field: function_id", "function_id"),
        ({"function_alias": "hq-production-function"}, 400, "Unknown field", "function_alias"),
        ({"first_execution_time": "2099-01-01 00:00"}, 400, "Unknown field", "first_execution_time"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_changes_nothing(
    client: Client, function_id: str, body: dict[str, Any], status: int, word: str, field: str
) -> None:
    made = make(client, function_id)
    answer = put(client, made, **{"function_input": "new"} | body)
    assert_error(answer, status, word)
    assert set(answer.json["errors"]) == {field}
    assert show(client, made) == made


def test_what_fires_once_gets_no_pattern(client: Client, function_id: str) -> None:
    made = make(client, function_id, pattern=None, first_execution_time=at(hours=1))
    answer = put(client, made, pattern="* * * * *")
    assert_error(answer, 400, "pattern", "fires once")
    assert set(answer.json["errors"]) == {"pattern"}
    assert show(client, made) == made


def test_the_reference_client_s_requests_are_served(client: Client, function_id: str) -> None:
    path = "/v1/jobs"
    nothing = dict.fromkeys(("function_alias", "function_id", "name", "first_execution_time", "pattern", "count"))
    body = nothing | {"function_version": None, "function_alias": "hq-production-function", "pattern": "* * * * *"}
    aliased = client.simulate_post(path, json=body | {"function_input": None}, headers=REFERENCE_CLIENT)
    assert aliased.status_code == 201, aliased.text
    body = nothing | {
        "function_id": function_id,
        "function_version": "2",
        "first_execution_time": at(hours=1),
        "count": "1",
        "function_input": '{"name": "Foo"}',
        "colour": "red",
    }
    made = client.simulate_post(path, json=body, headers=REFERENCE_CLIENT)
    assert made.status_code == 201, made.text
    assert (made.json["function_version"], made.json["count"], made.json["pattern"]) == (2, 1, None)
    listed = client.send("GET", path, headers=REFERENCE_CLIENT)
    assert listed.json == {"jobs": [aliased.json, made.json]}
    one = f"{path}/{made.json['id']}"
    assert client.send("GET", one, headers=REFERENCE_CLIENT).json == made.json
    nulls = dict.fromkeys(("status", "pattern", "next_execution_time", "function_input"))
    changed = client.simulate_put(one, json=nulls | {"name": "n"}, headers=REFERENCE_CLIENT)
    assert changed.status_code == 202
    assert changed.json == made.json | {"name": "n", "updated_at": changed.json["updated_at"]}


def test_an_update_with_nothing_to_change_answers_with_the_job(client: Client, function_id: str) -> None:
    made = make(client, function_id)
    nulls = json.dumps(dict.fromkeys(("name", "status", "pattern", "next_execution_time", "function_input"))).encode()
    for body, content_type in ((b"", None), (b"", "application/json"), (nulls, "application/json")):
        answer = client.send("PUT", f"/v1/jobs/{made['id']}", body, content_type=content_type)
        assert (answer.status_code, answer.json) == (202, made)
        assert answer.headers["location"].endswith(f"/v1/jobs/{made['id']}")


def test_jobs_are_deleted_and_only_then_what_they_name(client: Client, function_id: str) -> None:
    made = make(client, function_id, function_version=1)
    assert_error(client.simulate_delete(f"/v1/functions/{function_id}/versions/1"), 403, "in use", made["id"])
    answer = client.simulate_delete(f"/v1/jobs/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "PUT", "DELETE"):
        body = b'{"name": "n"}' if method == "PUT" else b""
        assert_error(client.send(method, f"/v1/jobs/{made['id']}", body), 404, "job")
        assert_error(client.send(method, "/v1/jobs/seven", body), 400, "Expected a uuid but received seven")
    assert client.simulate_delete(f"/v1/functions/{function_id}/versions/1").status_code == 204
