"""Asynchronous executions: accepted at once, ended later; cancelled, retried, deleted."""

from __future__ import annotations

import json

import pytest

from tests.contract.service import NOBODY, User, error, located, no_body
from tests.contract.shapes import EXECUTION, Shape, check

pytestmark = pytest.mark.xdist_group("contract")

SLEEPS = "import time\ndef main(seconds=60):\n    time.sleep(seconds)\n"
FAILS = "def main():\n    raise ValueError('no')\n"
WAITING: Shape = {
    **EXECUTION,
    **dict.fromkeys(("result", "cold", "queued_ms", "run_ms", "updated_at"), lambda value: value is None),
    "status": lambda value: value == "running",
}


@pytest.fixture(scope="module")
def sleeps(user: User) -> str:
    """A function that sleeps."""
    return user.function(SLEEPS, timeout=120)


@pytest.fixture(scope="module")
def fails(user: User) -> str:
    """A function that raises."""
    return user.function(FAILS)


def started(user: User, function_id: str) -> str:
    """An execution whose function runs."""
    execution_id = user.service.accept(function_id)
    user.service.wait_for_attempt(execution_id)
    return execution_id


def test_an_asynchronous_execution_is_answered_at_once_and_ends_later(user: User, function_id: str) -> None:
    answer = user.post("/v1/executions", function_id=function_id, sync=False, input={"name": "foo"})
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/executions/{made['id']}")
    check(WAITING, made)
    assert (made["sync"], made["attempt"], made["input"]) == (False, 0, '{"name": "foo"}')

    ended = user.service.ended(made["id"])

    check(EXECUTION, ended)
    assert (ended["status"], json.loads(ended["result"])["output"]) == ("success", "Hello, foo")
    assert (ended["attempt"], ended["sync"], ended["created_at"]) == (1, False, made["created_at"])
    assert user.get(f"/v1/executions/{made['id']}/log").text.splitlines()[1] == "Hello, World!"


def test_a_function_that_raises_fails_after_its_first_attempt(user: User, fails: str) -> None:
    ended = user.service.ended(user.service.accept(fails))
    assert (ended["status"], ended["attempt"], json.loads(ended["result"])["output"]) == ("failed", 1, "no")


def test_a_function_with_several_attempts_is_dead_after_the_last_one(user: User) -> None:
    function_id = user.function(FAILS, max_attempts=3, backoff_s=0.01)
    ended = user.service.ended(user.service.accept(function_id))
    assert (ended["status"], ended["attempt"]) == ("dead", 3)
    assert "3 attempts have failed" in ended["status_reason"]
    assert "ValueError" in ended["status_reason"]


def test_an_alias_is_followed_when_the_execution_is_accepted(user: User) -> None:
    function_id = user.function()
    number = user.version(function_id)
    alias = user.alias(function_id, function_version=number)
    made = user.made("/v1/executions", function_alias=alias, sync=False)
    assert (made["function_id"], made["function_version"], made["function_alias"]) == (function_id, number, alias)
    ended = user.service.ended(made["id"])
    assert (ended["status"], ended["function_version"]) == ("success", number)


def test_an_unknown_function_is_refused_at_once(user: User) -> None:
    error(user.post("/v1/executions", function_id=NOBODY, sync=False), 404, "not found", field="function_id")


def test_an_input_above_the_limit_is_refused(user: User, function_id: str) -> None:
    error(user.post("/v1/executions", function_id=function_id, sync=False, input="x" * 1_100_000), 413, field="input")


def test_PUT_v1_executions_id_answers_202(user: User, sleeps: str) -> None:
    execution_id = started(user, sleeps)

    answer = user.put(f"/v1/executions/{execution_id}", status="cancelled")

    assert answer.status_code == 202
    located(user, answer, f"/v1/executions/{execution_id}")
    assert answer.json()["status"] == "cancelled"
    assert user.put(f"/v1/executions/{execution_id}", status="canceled").status_code == 202
    assert user.service.execution(execution_id)["status"] == "cancelled"
    assert user.service.call(sleeps, {"seconds": 0})["status"] == "success", "its worker serves the next call"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "status"),
        ({"status": "paused"}, 400, "status"),
        ({"status": None}, 400, "status"),
        ({"status": "cancelled", "input": "x"}, 400, "input"),
    ],
)
def test_a_change_that_is_no_cancellation_is_refused(user: User, body: dict[str, str], status: int, field: str) -> None:
    error(user.put(f"/v1/executions/{NOBODY}", **body), status, field=field)


def test_an_execution_that_has_ended_is_not_cancelled(user: User, function_id: str) -> None:
    done = user.made("/v1/executions", function_id=function_id)
    error(user.put(f"/v1/executions/{done['id']}", status="cancelled"), 409, "success")
    error(user.put(f"/v1/executions/{NOBODY}", status="cancelled"), 404)


def test_a_running_execution_is_cancelled_and_deleted(user: User, sleeps: str) -> None:
    path = f"/v1/executions/{started(user, sleeps)}"
    no_body(user.delete(path), 204)
    error(user.get(path), 404)


def test_POST_v1_executions_id_retry_answers_202(user: User, fails: str) -> None:
    execution_id = user.service.accept(fails)
    user.service.ended(execution_id)

    answer = user.post(f"/v1/executions/{execution_id}/retry")

    assert answer.status_code == 202
    located(user, answer, f"/v1/executions/{execution_id}")
    assert (answer.json()["status"], answer.json()["result"]) == ("running", None)
    ended = user.service.ended(execution_id)
    assert (ended["status"], ended["attempt"]) == ("failed", 2)


def test_retries_of_synchronous_and_successful_executions_are_refused(user: User, function_id: str) -> None:
    synchronous = user.made("/v1/executions", function_id=function_id)
    error(user.post(f"/v1/executions/{synchronous['id']}/retry"), 409, "synchronous")
    good = user.service.accept(function_id)
    user.service.ended(good)
    error(user.post(f"/v1/executions/{good}/retry"), 409, "success")
    error(user.post(f"/v1/executions/{NOBODY}/retry"), 404)


def test_POST_v1_executions_retry_answers_200(user: User) -> None:
    function_id = user.function(FAILS)
    ids = [user.service.accept(function_id) for _ in range(3)]
    for execution_id in ids:
        user.service.ended(execution_id)

    answer = user.post("/v1/executions/retry", status="failed", function_id=function_id)

    assert (answer.status_code, answer.json()) == (200, {"count": 3, "more": False, "left": 0})
    assert [user.service.ended(execution_id)["attempt"] for execution_id in ids] == [2, 2, 2]
    error(user.post("/v1/executions/retry", status="success"), 400, field="status")
    error(user.post("/v1/executions/retry"), 400, field="status")


def test_DELETE_v1_executions_answers_200(user: User) -> None:
    function_id = user.function(FAILS)
    ids = [user.service.accept(function_id) for _ in range(3)]
    for execution_id in ids:
        user.service.ended(execution_id)

    answer = user.delete(f"/v1/executions?status=failed&function_id={function_id}")

    assert (answer.status_code, answer.json()) == (200, {"count": 3, "more": False})
    for execution_id in ids:
        error(user.get(f"/v1/executions/{execution_id}"), 404)
    error(user.delete("/v1/executions"), 400, field="status")
    error(user.delete("/v1/executions?status=running"), 400, field="status")
    error(user.delete(f"/v1/executions?status=failed&function={function_id}"), 400, field="function")
