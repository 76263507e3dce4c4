"""Jobs: made, shown, listed, changed and deleted; nothing fires here."""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.models.scope import Context
from tests.api.client import REFERENCE_CLIENT, Client, assert_error

FIELDS = {
    "id", "name", "function_id", "function_version", "function_alias", "function_input", "pattern", "count", "status",
    "first_execution_time", "next_execution_time", "project_id", "created_at", "updated_at",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
NOBODY = str(uuid.uuid4())
LONGEST = "0,1 " + "0," * 122 + "1 * * *"


@pytest.fixture
def function_id(client: Client) -> str:
    """A function with the versions 1 and 2, and an alias of the second."""
    function_id = str(client.function()["id"])
    for number in (1, 2):
        assert client.form("PUT", f"/v1/functions/{function_id}", [("timeout", str(5 + number))]).status_code == 200
        assert client.simulate_post(f"/v1/functions/{function_id}/versions").status_code == 201
    alias = {"name": "hq-production-function", "function_id": function_id, "function_version": 2}
    assert client.simulate_post("/v1/aliases", json=alias).status_code == 201
    return function_id


def make(client: Client, function_id: str, **fields: Any) -> dict[str, Any]:
    body = {"function_id": function_id, "pattern": "0 0 1 1 *"} | fields
    answer = client.simulate_post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json)


def put(client: Client, row: dict[str, Any], **fields: Any) -> testing.Result:
    return client.simulate_put(f"/v1/jobs/{row['id']}", json=fields)


def show(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    return dict(client.simulate_get(f"/v1/jobs/{row['id']}").json)


def at(**ahead: float) -> str:
    """A time so far ahead of now, in UTC, as answers show it."""
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(**ahead)).strftime("%Y-%m-%d %H:%M:%S")


def test_a_job_is_made_as_the_reference_shows(client: Client, function_id: str) -> None:
    body = {
        "count": 5,
        "name": "every-minute",
        "pattern": "* * * * *",
        "function_version": 2,
        "function_input": '{"name": "Foo"}',
        "function_id": function_id,
    }
    before = at()
    answer = client.simulate_post("/v1/jobs", json=body)

    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == FIELDS
    assert {name: row[name] for name in body} == body
    assert (row["status"], row["function_alias"], row["project_id"]) == ("running", None, "default")
    assert TIME.fullmatch(row["created_at"])
    assert row["updated_at"] is None
    assert row["first_execution_time"] == row["next_execution_time"]
    assert row["first_execution_time"].endswith(":00")
    assert before < row["first_execution_time"] <= at(minutes=1)
    assert answer.headers["location"] == f"http://localhost:7070/v1/jobs/{row['id']}"
    assert show(client, row) == row
    assert client.simulate_get("/v1/jobs").json == [row]


def test_a_job_of_an_alias_is_made_as_the_reference_shows(client: Client, function_id: str) -> None:
    body = {
        "count": 5,
        "name": "every-minute",
        "pattern": "* * * * *",
        "function_input": '{"name": "Foo"}',
        "function_alias": "hq-production-function",
    }
    for more in ({}, {"function_id": NOBODY, "function_version": 7}):
        answer = client.simulate_post("/v1/jobs", json=body | more)
        assert answer.status_code == 201, answer.text
        assert {name: answer.json[name] for name in body} == body
        assert (answer.json["function_id"], answer.json["function_version"]) == (None, None)


def test_only_what_fires_and_when_is_needed(client: Client, function_id: str) -> None:
    row = make(client, function_id, pattern="0 0 * * SUN")
    assert (row["function_version"], row["name"], row["function_input"], row["count"]) == (0, None, None, None)


def test_a_job_without_a_pattern_fires_once_at_its_first_time(client: Client, function_id: str) -> None:
    first = at(hours=1)
    for count in (None, 1, "1"):
        row = make(client, function_id, pattern=None, first_execution_time=first, count=count)
        assert (row["pattern"], row["count"]) == (None, 1)
        assert row["first_execution_time"] == row["next_execution_time"] == first


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2099-06-07 22:41", "2099-06-07 22:41:00"),
        ("2099-06-07 22:41:05", "2099-06-07 22:41:05"),
        (" 2099-06-07 22:41:05 ", "2099-06-07 22:41:05"),
        ("2099-06-07T22:41:05", "2099-06-07 22:41:05"),
        ("2099-06-07T22:41:05Z", "2099-06-07 22:41:05"),
        ("2099-06-07T22:41:05.999999Z", "2099-06-07 22:41:05"),
        ("2099-06-07T22:41:05+02:00", "2099-06-07 20:41:05"),
        ("2099-06-07 22:41-0930", "2099-06-08 08:11:00"),
    ],
)
def test_times_are_read_in_any_zone_and_shown_in_utc(
    client: Client, function_id: str, given: str, shown: str
) -> None:
    once = make(client, function_id, pattern=None, first_execution_time=given)
    assert once["first_execution_time"] == once["next_execution_time"] == shown
    assert put(client, make(client, function_id), next_execution_time=given).json["next_execution_time"] == shown
    # What is shown is all there is: no fraction is kept.
    assert client.simulate_get(f"/v1/jobs?first_execution_time={shown}.000000").json == [once]


def test_a_first_time_with_a_pattern_is_where_its_times_begin(client: Client, function_id: str) -> None:
    for first, year in (("2099-01-01 00:00:00", 2099), ("2099-01-01 00:00:01", 2100)):
        row = make(client, function_id, first_execution_time=first)
        assert row["first_execution_time"] == row["next_execution_time"] == f"{year}-01-01 00:00:00"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ('{"name": "Foo"}', '{"name": "Foo"}'),
        ({"name": "Föö"}, '{"name": "Föö"}'),
        ([1, True], "[1, true]"),
        (5, "5"),
    ],
)
def test_the_input_is_kept_as_text(client: Client, function_id: str, given: Any, text: str) -> None:
    made = make(client, function_id, function_input=given)
    assert made["function_input"] == show(client, made)["function_input"] == text
    made = make(client, function_id, function_input="before")
    assert put(client, made, function_input=given).json["function_input"] == text
    assert show(client, made)["function_input"] == text


def test_the_input_is_bounded_in_bytes(client_with: Callable[..., Client], function_id: str) -> None:
    client = client_with(max_input_size=10)
    made = make(client, function_id, function_input="ääääa1")
    for text in ("ääääab1", {"name": "Foo"}):
        body = {"function_id": function_id, "pattern": "* * * * *", "function_input": text}
        for answer in (client.simulate_post("/v1/jobs", json=body), put(client, made, function_input=text)):
            assert_error(answer, 413, "function_input is larger than 10 bytes")
            assert set(answer.json["errors"]) == {"function_input"}
    assert client.simulate_get("/v1/jobs").json == [made]


@pytest.mark.parametrize(
    ("body", "status", "word", "field"),
    [
        ({"function_id": None}, 400, "function_id or function_alias is required", "function_id"),
        ({"function_id": "7"}, 400, "Expected a uuid but received 7", "function_id"),
        ({"function_id": NOBODY}, 404, "function_id: Function", "function_id"),
        ({"function_version": 3}, 404, "function_version: Version 3", "function_version"),
        ({"function_version": -1}, 400, "function_version", "function_version"),
        ({"function_alias": "test"}, 404, "function_alias: Alias 'test'", "function_alias"),
        ({"pattern": None}, 400, "pattern or first_execution_time is required", "pattern"),
        ({"pattern": ""}, 400, "five fields", "pattern"),
        ({"pattern": 5}, 400, "must be text", "pattern"),
        ({"pattern": "* * * * * *"}, 400, "five fields", "pattern"),
        ({"pattern": "@daily"}, 400, "five fields", "pattern"),
        ({"pattern": "61 * * * *"}, 400, "'61' is no minute", "pattern"),
        ({"pattern": "0 0 30 2 *"}, 400, "never fires", "pattern"),
        ({"pattern": LONGEST + " "}, 400, "at most 255 characters", "pattern"),
        ({"first_execution_time": "2019-06-07 19:12:00"}, 400, "one minute ahead", "first_execution_time"),
        ({"first_execution_time": "tomorrow"}, 400, "must be a time", "first_execution_time"),
        ({"first_execution_time": "2099-02-30 00:00"}, 400, "must be a time", "first_execution_time"),
        ({"first_execution_time": "2099-01-01 00:00+99:00"}, 400, "must be a time", "first_execution_time"),
        ({"first_execution_time": 4102444800}, 400, "must be a time", "first_execution_time"),
        ({"first_execution_time": "9999-12-31 23:59:59"}, 400, "year 9000", "first_execution_time"),
        ({"first_execution_time": "9999-12-31 23:59:59-01:00"}, 400, "must be a time", "first_execution_time"),
        ({"count": 0}, 400, "must be from 1", "count"),
        ({"count": -1}, 400, "must be from 1", "count"),
        ({"count": 1 << 40}, 400, "must be from 1", "count"),
        ({"count": "many"}, 400, "whole number", "count"),
        ({"count": True}, 400, "whole number", "count"),
        ({"count": 2.5}, 400, "whole number", "count"),
        ({"count": 1e300}, 400, "must be from 1", "count"),
        ({"name": "x" * 256}, 400, "255", "name"),
        ({"name": 7}, 400, "must be text", "name"),
        ({"status": "paused"}, 400, "Unknown field: status", "status"),
        ({"next_execution_time": "2099-01-01 00:00"}, 400, "Unknown field", "next_execution_time"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_naming_the_field(
    client: Client, function_id: str, body: dict[str, Any], status: int, word: str, field: str
) -> None:
    answer = client.simulate_post("/v1/jobs", json={"function_id": function_id, "pattern": "* * * * *"} | body)
    assert_error(answer, status, word)
    assert set(answer.json["errors"]) == {field}
    assert client.simulate_get("/v1/jobs").json == []


@pytest.mark.parametrize("count", [2, 2.0, "2", " +2\t"])
def test_a_whole_number_may_be_written_in_several_ways(client: Client, function_id: str, count: object) -> None:
    body = {"function_id": function_id, "pattern": "* * * * *", "count": count}
    answer = client.simulate_post("/v1/jobs", json=body)
    assert (answer.status_code, answer.json["count"]) == (201, 2), answer.text


def test_what_fires_once_counts_one(client: Client, function_id: str) -> None:
    body = {"function_id": function_id, "first_execution_time": at(hours=1), "count": 2}
    answer = client.simulate_post("/v1/jobs", json=body)
    assert_error(answer, 400, "count", "without a pattern")
    assert set(answer.json["errors"]) == {"count"}


def test_a_pattern_has_up_to_255_characters(client: Client, function_id: str) -> None:
    assert len(LONGEST) == 255
    assert make(client, function_id, pattern=LONGEST)["pattern"] == LONGEST


def test_all_that_is_wrong_is_named_at_once(client: Client) -> None:
    answer = client.simulate_post("/v1/jobs", json={"function_id": "7", "pattern": "x", "count": 0, "colour": 1})
    assert_error(answer, 400, "colour")
    assert set(answer.json["errors"]) == {"function_id", "pattern", "count", "colour"}


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


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["b", "a", "c"]),
        ("sort_key=name", ["a", "b", "c"]),
        ("sort_key=name&sort_dir=desc&limit=2", ["c", "b"]),
        ("sort_key=status", ["c", "b", "a"]),
        ("sort_key=updated_at&sort_dir=desc", ["c", "a", "b"]),
        ("name=in:a,b", ["b", "a"]),
        ("function_id=OURS", ["b", "a"]),
        ("function_version=0", ["a"]),
        ("function_alias=hq-production-function", ["c"]),
        ("function_input=has:Foo", ["b"]),
        ("pattern=eq:0 0 1 1 *", ["b", "c"]),
        ("count=gte:1", ["b", "a"]),
        ("status=neq:running", ["c"]),
        ("first_execution_time=gt:2099-01-01", ["a"]),
        ("next_execution_time=2099-06-07 22:41:00", ["a"]),
        ("next_execution_time=lt:2099-01-01", ["b", "c"]),
        ("created_at=gt:2020-01-01&updated_at=gt:2020-01-01", ["c"]),
        ("project_id=default", ["b", "a", "c"]),
        ("id=THIRD", ["c"]),
    ],
)
def test_jobs_are_listed_filtered_and_sorted(
    client: Client, function_id: str, query: str, expected: list[str]
) -> None:
    make(client, function_id, name="b", function_version=1, function_input='{"name": "Foo"}', count=7)
    make(client, function_id, name="a", pattern=None, first_execution_time="2099-06-07 22:41")
    third = make(client, function_id, name="c", function_alias="hq-production-function")
    put(client, third, status="cancelled")
    query = query.replace("OURS", function_id).replace("THIRD", third["id"])
    assert [row["name"] for row in client.simulate_get("/v1/jobs", query_string=query).json] == expected


@pytest.mark.parametrize("query", ["colour=red", "sort_key=pattern", "sort_key=next_execution_time", "limit=0"])
def test_what_a_list_of_jobs_can_not_do_is_refused(client: Client, query: str) -> None:
    assert_error(client.simulate_get("/v1/jobs", query_string=query), 400, query.split("=")[0])


def test_pages_and_envelopes(client_with: Callable[..., Client], client: Client, function_id: str) -> None:
    rows = [make(client, function_id) for _ in range(3)]
    client = client_with(list_envelope="always")
    answer = client.simulate_get("/v1/jobs?limit=2&sort_key=status")
    assert answer.json["jobs"] == rows[:2]
    following = answer.json["next"]
    assert client.simulate_get(following[following.index("/v1/") :]).json == {"jobs": rows[2:]}


def test_settings_reach_the_locations(client_with: Callable[..., Client], function_id: str) -> None:
    client = client_with(public_endpoint="https://engine.example/qinling/")
    body = {"function_id": function_id, "pattern": "* * * * *"}
    answer = client.simulate_post("/v1/jobs", json=body)
    location = f"https://engine.example/qinling/v1/jobs/{answer.json['id']}"
    assert answer.headers["location"] == location
    assert put(client, answer.json, name="n").headers["location"] == location


def test_other_projects_jobs_are_not_found_and_admins_only_see_them(
    client: Client, function_id: str, act_as: Callable[[Context], None]
) -> None:
    made = make(client, function_id)
    one = f"/v1/jobs/{made['id']}"
    other = {"function_id": function_id, "pattern": "* * * * *"}

    act_as(Context("theirs"))
    assert client.simulate_get("/v1/jobs").json == []
    assert client.simulate_get("/v1/jobs?project_id=default").json == []
    refused = client.simulate_get("/v1/jobs?all_projects=true").json["faultstring"]
    assert refused == "Operation not allowed: job:get_all:all_projects."
    for method in ("GET", "PUT", "DELETE"):
        body = b'{"status": "cancelled"}' if method == "PUT" else b""
        assert_error(client.send(method, one, body), 404, "job")
    assert_error(client.send("PUT", one), 404, "job")
    assert_error(client.simulate_post("/v1/jobs", json=other), 404, "function_id")

    act_as(Context("admins", is_admin=True, roles=("admin",)))
    assert client.simulate_get("/v1/jobs").json == []
    for query in ("all_projects=true", "project_id=default"):
        assert client.simulate_get("/v1/jobs", query_string=query).json == [made]
    assert client.simulate_get(one).json == made
    assert_error(client.simulate_put(one, json={"status": "cancelled"}), 403, "owner")
    assert_error(client.simulate_delete(one), 403, "owner")
    assert_error(client.simulate_post("/v1/jobs", json=other), 404, "function_id")
    assert client.simulate_get(one).json == made
