"""`/v1/jobs`, as records, and runs on request. Their times come in `tests/integration/test_jobs.py`."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from tests.contract.service import NOBODY, User, error, located, no_body
from tests.contract.shapes import EXECUTION, JOB, check, check_all

pytestmark = pytest.mark.xdist_group("contract")

EVERY_MINUTE = "* * * * *"
NEW_YEAR = "0 0 1 1 *"
LATER = "2099-06-07 22:41:00"


@pytest.fixture(scope="module")
def target(user: User) -> str:
    """A function with the versions 1 and 2."""
    function_id = user.function()
    assert [user.version(function_id) for _ in range(2)] == [1, 2]
    return function_id


@pytest.fixture(scope="module")
def alias(user: User, target: str) -> str:
    return user.alias(target, function_version=2)


def in_(**span: float) -> str:
    """The time so far ahead, as requests have it."""
    return f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(**span):%Y-%m-%d %H:%M:%S}"


def named(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What a job runs."""
    return row["function_id"], row["function_version"], row["function_alias"]


def test_POST_v1_jobs_answers_201(user: User, target: str) -> None:
    given = {"count": 5, "name": "every-minute", "pattern": EVERY_MINUTE, "function_version": 2}
    given |= {"function_input": '{"name": "Foo"}', "function_id": target}
    before = in_()
    answer = user.post("/v1/jobs", **given)
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/jobs/{made['id']}")
    check(JOB, made)
    assert {field: made[field] for field in given} == given
    assert (made["function_alias"], made["status"], made["updated_at"]) == (None, "running", None)
    assert made["first_execution_time"] == made["next_execution_time"]
    assert before < made["next_execution_time"] <= in_(minutes=1)
    assert made["next_execution_time"].endswith(":00")
    assert user.delete(f"/v1/jobs/{made['id']}").status_code == 204


def test_a_job_of_an_alias_shows_neither_function_nor_version(user: User, target: str, alias: str) -> None:
    given = {"count": 5, "name": "every-minute", "pattern": NEW_YEAR, "function_input": '{"name": "Foo"}'}
    made = user.made("/v1/jobs", function_alias=alias, **given)
    check(JOB, made)
    assert {field: made[field] for field in given} == given
    assert named(made) == (None, None, alias)
    both = user.made("/v1/jobs", function_alias=alias, function_id=target, function_version=1, pattern=NEW_YEAR)
    assert named(both) == (None, None, alias)


def test_what_is_left_out_of_a_job_has_its_default(user: User, target: str) -> None:
    names = ("count", "name", "function_version", "function_alias", "function_input", "first_execution_time")
    for nulls in ({}, dict.fromkeys(names)):
        made = user.made("/v1/jobs", function_id=target, pattern="0 0 * * SUN", **nulls)
        assert named(made) == (target, 0, None)
        assert (made["count"], made["name"], made["function_input"]) == (None, None, None)


def test_a_job_with_a_time_alone_runs_once(user: User, target: str) -> None:
    for given, shown in (
        (LATER, LATER),
        ("2099-06-07 22:41", LATER),
        ("2099-06-07T22:41:00", LATER),
        ("2099-06-07T22:41:00Z", LATER),
        ("2099-06-08T00:41:00+02:00", LATER),
        ("2099-06-07T22:41:00.5Z", LATER),
    ):
        for count in ({}, {"count": 1}, {"count": "1"}):
            made = user.made("/v1/jobs", function_id=target, first_execution_time=given, **count)
            check(JOB, made)
            assert (made["first_execution_time"], made["next_execution_time"]) == (shown, shown)
            assert (made["pattern"], made["count"]) == (None, 1)


def test_a_pattern_counts_from_its_first_time_on(user: User, target: str) -> None:
    for first, expected in ((LATER, LATER), ("2099-06-07 22:41:30", "2099-06-07 22:42:00")):
        made = user.made("/v1/jobs", function_id=target, pattern=EVERY_MINUTE, first_execution_time=first)
        assert (made["first_execution_time"], made["next_execution_time"]) == (expected, expected)


@pytest.mark.parametrize(
    ("given", "stored"),
    [({"name": "Foo"}, '{"name": "Foo"}'), ("plain", "plain"), (7, "7"), ([1], "[1]"), ("", ""), (None, None)],
)
def test_the_input_of_a_job_is_that_of_an_execution(user: User, target: str, given: Any, stored: str | None) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR, function_input=given)
    assert made["function_input"] == stored


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"pattern": None}, 400, "pattern"),
        ({"pattern": ""}, 400, "pattern"),
        ({"pattern": "often"}, 400, "pattern"),
        ({"pattern": "* * * *"}, 400, "pattern"),
        ({"pattern": "* * * * * *"}, 400, "pattern"),
        ({"pattern": "61 * * * *"}, 400, "pattern"),
        ({"pattern": "0 0 30 2 *"}, 400, "pattern"),  # which never comes
        ({"pattern": "0," * 128 + "0 * * * *"}, 400, "pattern"),
        ({"first_execution_time": "2019-06-07 22:41:00"}, 400, "first_execution_time"),
        ({"first_execution_time": "soon"}, 400, "first_execution_time"),
        ({"pattern": None, "first_execution_time": LATER, "count": 2}, 400, "count"),
        ({"count": 0}, 400, "count"),
        ({"count": "many"}, 400, "count"),
        ({"function_id": None}, 400, "function_id"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"name": "x" * 256}, 400, "name"),
        ({"status": "paused"}, 400, "status"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], status: int, field: str
) -> None:
    given = {"function_id": target, "pattern": NEW_YEAR} | fields
    error(user.post("/v1/jobs", **given), status, field=field)


def test_the_first_time_is_at_least_a_minute_ahead(user: User, target: str) -> None:
    for pattern in ({}, {"pattern": NEW_YEAR}):
        near = user.post("/v1/jobs", function_id=target, first_execution_time=in_(seconds=50), **pattern)
        error(near, 400, field="first_execution_time")
        user.made("/v1/jobs", function_id=target, first_execution_time=in_(seconds=90), **pattern)


def test_GET_v1_jobs_answers_200(user: User) -> None:
    function_id = user.function()
    made = [user.made("/v1/jobs", function_id=function_id, pattern=NEW_YEAR, name=name) for name in ("one", "two")]
    answer = user.get("/v1/jobs", params={"function_id": function_id})
    assert answer.status_code == 200
    check_all(JOB, answer.json())
    assert answer.json() == made
    for query in ({"all_projects": "true"}, {"project_id": "default"}):
        assert user.get("/v1/jobs", params={"function_id": function_id} | query).json() == made


def test_GET_v1_jobs_id_answers_200(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR)
    answer = user.get(f"/v1/jobs/{made['id']}")
    assert answer.status_code == 200
    check(JOB, answer.json())
    assert answer.json() == made
    error(user.get(f"/v1/jobs/{NOBODY}"), 404, NOBODY)


def test_PUT_v1_jobs_id_answers_202(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, function_version=2, pattern="0 0 * * SUN", name="weekly")
    path = f"/v1/jobs/{made['id']}"
    given = {"status": "paused", "name": "every-minute", "pattern": EVERY_MINUTE}
    given |= {"function_input": '{"name": "Foo"}', "next_execution_time": LATER}
    answer = user.put(path, **given)
    assert answer.status_code == 202
    located(user, answer, path)
    updated = answer.json()
    check(JOB, updated)
    assert updated == made | given | {"updated_at": updated["updated_at"]}
    assert updated["updated_at"] is not None
    assert user.get(path).json() == updated
    error(user.put(f"/v1/jobs/{NOBODY}", name="n"), 404, NOBODY)


def test_an_update_of_a_job_ignores_nulls(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR, name="n", function_input="text", count=3)
    path = f"/v1/jobs/{made['id']}"
    nulls = dict.fromkeys(("name", "function_input", "status", "pattern", "next_execution_time"))
    for answer in (user.put(path, **nulls), user.put(path), user.send("PUT", path)):
        assert (answer.status_code, answer.json()) == (202, made)


def test_a_changed_pattern_moves_the_next_time_to_its_next_match(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR)
    updated = user.put(f"/v1/jobs/{made['id']}", pattern="30 12 24 12 *").json()
    assert updated["next_execution_time"].endswith("-12-24 12:30:00")
    assert in_() < updated["next_execution_time"] < in_(days=367)
    assert updated["first_execution_time"] == made["first_execution_time"]


def test_a_job_is_paused_runs_again_and_is_cancelled_for_good(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR)
    path = f"/v1/jobs/{made['id']}"
    for status in ("paused", "running", "paused"):
        assert user.put(path, status=status).json()["status"] == status
    assert user.put(path, status="canceled").json()["status"] == "cancelled"  # the reference's spelling
    for fields in ({"status": "running"}, {"name": "n"}, {"pattern": EVERY_MINUTE}):
        error(user.put(path, **fields), 400, "cancelled")
    no_body(user.delete(path), 204)


def test_a_paused_job_goes_on_with_its_next_match_from_now(user: User, target: str) -> None:
    path = f"/v1/jobs/{user.made('/v1/jobs', function_id=target, pattern=NEW_YEAR)['id']}"
    assert user.put(path, status="paused", next_execution_time=LATER).json()["next_execution_time"] == LATER
    resumed = user.put(path, status="running").json()
    assert resumed["next_execution_time"] < in_(days=367)


def test_a_job_that_runs_once_keeps_its_time_when_it_goes_on(user: User, target: str) -> None:
    path = f"/v1/jobs/{user.made('/v1/jobs', function_id=target, first_execution_time=LATER)['id']}"
    for status in ("paused", "running"):
        assert user.put(path, status=status).json()["next_execution_time"] == LATER


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"status": "done"}, "status"),
        ({"status": "asleep"}, "status"),
        ({"pattern": "often"}, "pattern"),
        ({"pattern": ""}, "pattern"),
        ({"next_execution_time": "2019-06-07 22:41:00"}, "next_execution_time"),
        ({"next_execution_time": "soon"}, "next_execution_time"),
        ({"count": 3}, "count"),
        ({"function_id": NOBODY}, "function_id"),
        ({"first_execution_time": LATER}, "first_execution_time"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], field: str
) -> None:
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR)
    error(user.put(f"/v1/jobs/{made['id']}", **fields), 400, field=field)
    assert user.get(f"/v1/jobs/{made['id']}").json() == made


def test_a_job_that_runs_once_can_not_get_a_pattern(user: User, target: str) -> None:
    made = user.made("/v1/jobs", function_id=target, first_execution_time=LATER)
    error(user.put(f"/v1/jobs/{made['id']}", pattern=NEW_YEAR), 400, field="pattern")
    moved = user.put(f"/v1/jobs/{made['id']}", next_execution_time="2099-06-08T00:00").json()
    assert moved["next_execution_time"] == "2099-06-08 00:00:00"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"misfire": "twice"}, "misfire"),
        ({"overlap": "yes"}, "overlap"),
        ({"timezone": "Europe/Atlantis"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"timezone": "../etc/passwd"}, "timezone"),
        ({"timezone": "europe/berlin"}, "timezone"),
        ({"timezone": "localtime"}, "timezone"),
        ({"timezone": "Europe"}, "timezone"),
        ({"timezone": 1}, "timezone"),
    ],
)
def test_unknown_policies_and_time_zones_are_refused(
    user: User, target: str, fields: dict[str, Any], field: str
) -> None:
    error(user.post("/v1/jobs", function_id=target, pattern=NEW_YEAR, **fields), 400, field=field)
    made = user.made("/v1/jobs", function_id=target, pattern=NEW_YEAR)
    error(user.put(f"/v1/jobs/{made['id']}", **fields), 400, field=field)
    assert user.get(f"/v1/jobs/{made['id']}").json() == made


def test_a_pattern_is_read_in_the_time_zone_of_its_job(user: User, target: str) -> None:
    given = {"misfire": "skip", "overlap": "forbid", "timezone": "Asia/Tokyo"}
    made = user.made("/v1/jobs", function_id=target, pattern="30 2 1 7 *", **given)
    assert {name: made[name] for name in given} == given
    assert made["next_execution_time"].endswith("-06-30 17:30:00")

    changed = user.put(f"/v1/jobs/{made['id']}", timezone="America/New_York", misfire="run_once").json()

    assert (changed["timezone"], changed["misfire"], changed["overlap"]) == ("America/New_York", "run_once", "forbid")
    assert changed["next_execution_time"].endswith("-07-01 06:30:00")
    assert changed["first_execution_time"] == made["first_execution_time"]
    listed = user.get("/v1/jobs?timezone=America/New_York&overlap=forbid").json()
    assert [row["id"] for row in listed] == [made["id"]]


def test_POST_v1_jobs_id_run_answers_202(user: User, target: str, alias: str) -> None:
    for names in ({"function_id": target, "function_version": 1}, {"function_alias": alias}):
        made = user.made("/v1/jobs", pattern=NEW_YEAR, function_input="text", count=2, **names)
        path = f"/v1/jobs/{made['id']}"
        for status in ("running", "paused"):
            user.put(path, status=status)
            before = user.get(path).json()
            answer = user.post(f"{path}/run")
            assert answer.status_code == 202
            execution = answer.json()
            located(user, answer, f"/v1/executions/{execution['id']}")
            assert execution.keys() == EXECUTION.keys()
            assert (execution["source"], execution["job_id"], execution["sync"]) == ("job", made["id"], False)
            assert (execution["input"], execution["status"], execution["attempt"]) == ("text", "running", 0)
            assert execution["function_version"] == (2 if "function_alias" in names else 1)
            assert execution["description"] == f"Created by Job {made['id']}"
            assert user.get(path).json() == before
        user.put(path, status="cancelled")
        error(user.post(f"{path}/run"), 409, "cancelled")
    error(user.post(f"/v1/jobs/{NOBODY}/run"), 404, NOBODY)
    error(user.post("/v1/jobs/seven/run"), 400, "Expected a uuid")


def test_a_job_that_forbids_overlap_is_not_run_while_it_runs(user: User) -> None:
    sleeps = user.function("import time\n\ndef main(**named):\n    time.sleep(60)\n")
    made = user.made("/v1/jobs", function_id=sleeps, pattern=NEW_YEAR, overlap="forbid")
    path = f"/v1/jobs/{made['id']}/run"
    first = user.post(path).json()["id"]

    error(user.post(path), 409, first)
    assert user.put(f"/v1/executions/{first}", status="cancelled").status_code == 202

    second = user.post(path)
    assert second.status_code == 202
    assert user.put(f"/v1/executions/{second.json()['id']}", status="cancelled").status_code == 202


def test_DELETE_v1_jobs_id_answers_204(user: User, target: str) -> None:
    path = f"/v1/jobs/{user.made('/v1/jobs', function_id=target, pattern=NEW_YEAR)['id']}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.put(path, name="n"), user.delete(path)):
        error(answer, 404, path.rpartition("/")[2])
