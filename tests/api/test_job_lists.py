"""Lists of jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Client, assert_error
from tests.api.jobs import make, put


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
