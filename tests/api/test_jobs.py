"""New jobs: what they need, what they are refused for, and how they are shown. Nothing fires here."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from qinling_falcon.jobs import queues
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.jobs import NOBODY, TIME, at, make, put, show

FIELDS = {
    "id", "name", "function_id", "function_version", "function_alias", "function_input", "pattern", "count", "status",
    "first_execution_time", "next_execution_time", "misfire", "overlap", "timezone", "project_id", "created_at",
    "updated_at",
}  # fmt: skip
LONGEST = "0,1 " + "0," * 122 + "1 * * *"


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
    client = client_with(async_max_input_size=10)
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


def test_a_job_that_is_due_soon_gets_its_alarm(services: Services, client: Client, function_id: str) -> None:
    redis = queues.connect(services.settings)
    made = make(client, function_id, pattern="* * * * *")
    make(client, function_id, pattern="0 0 1 1 *")
    gevent.sleep(0.2)  # the answer does not wait for the alarm
    due = datetime.datetime.fromisoformat(made["next_execution_time"] + "+00:00").timestamp()
    assert redis.zrange("rq:scheduler:scheduled_jobs", 0, -1) == [f"alarm-{due:.0f}".encode()]

    redis.flushall()
    put(client, made, status="paused")
    gevent.sleep(0.1)
    assert redis.zcard("rq:scheduler:scheduled_jobs") == 0
    put(client, made, status="running")
    gevent.sleep(0.2)
    assert redis.zcard("rq:scheduler:scheduled_jobs") == 1
    redis.close()


def test_a_job_that_is_run_and_due_soon_gets_its_alarm_again(
    services: Services, client: Client, function_id: str
) -> None:
    """A tick leaves out the row that the request has locked, and its alarm is used up."""
    job = make(client, function_id, pattern="* * * * *")
    gevent.sleep(0.2)
    redis = queues.connect(services.settings)
    redis.delete("rq:scheduler:scheduled_jobs")

    assert client.simulate_post(f"/v1/jobs/{job['id']}/run").status_code == 202

    gevent.sleep(0.2)
    assert redis.zcard("rq:scheduler:scheduled_jobs") == 1
