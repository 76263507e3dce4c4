"""`/v1/executions`: runs of functions, answered when they have ended."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.service import HELLO, NOBODY, REFERENCE_CLIENT, User, error, located, no_body
from tests.contract.shapes import EXECUTION, check, check_all

pytestmark = pytest.mark.xdist_group("contract")


def output_of(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


@pytest.fixture(scope="module")
def echo(user: User) -> str:
    """A function that returns what it was called with."""
    return user.function("def main(*args, context=None, **kwargs):\n    return [args, kwargs]\n")


def test_POST_v1_executions_answers_201(user: User, function_id: str) -> None:
    given = {"description": "of a test", "sync": True, "function_version": 0, "function_id": function_id}
    answer = user.post("/v1/executions", input='{"name": "foo"}', **given)
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/executions/{made['id']}")
    check(EXECUTION, made)
    assert {name: made[name] for name in given} == given
    assert made["input"] == '{"name": "foo"}'
    assert (made["status"], output_of(made)) == ("success", "Hello, foo")


def test_an_execution_follows_an_alias(user: User) -> None:
    function_id = user.function()
    number = user.version(function_id)
    alias = user.alias(function_id, function_version=number)
    given = {"description": "of a test", "sync": True, "input": '{"name": "foo"}', "function_alias": alias}
    made = user.made("/v1/executions", **given)
    check(EXECUTION, made)
    assert {name: made[name] for name in given} == given
    assert (made["function_id"], made["function_version"], output_of(made)) == (function_id, number, "Hello, foo")
    both = user.made("/v1/executions", function_id=NOBODY, function_version=7, function_alias=alias)
    assert (both["function_id"], both["function_version"]) == (function_id, number)


def test_what_is_left_out_of_an_execution_has_its_default(user: User, function_id: str) -> None:
    for nulls in ({}, dict.fromkeys(("function_version", "function_alias", "input", "sync", "description"))):
        made = user.made("/v1/executions", function_id=function_id, **nulls)
        assert (made["function_version"], made["sync"], made["input"], made["description"]) == (0, True, None, None)
        assert (made["function_alias"], output_of(made)) == (None, "Hello, World")


@pytest.mark.parametrize("sync", [True, False])
def test_a_request_with_the_same_idempotency_key_gets_the_same_execution(
    user: User, function_id: str, sync: bool
) -> None:
    def ask(key: str, **fields: Any) -> Any:
        body = {"function_id": function_id, "sync": sync, **fields}
        return user.send("POST", "/v1/executions", json=body, headers={"Idempotency-Key": key})

    first, again = ask(f"key-{sync}"), ask(f'"key-{sync}"')

    assert (again.status_code, again.json()) == (first.status_code, first.json()) == (201, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
    error(ask(f"key-{sync}", description="another"), 422, "Idempotency-Key")
    error(ask(""), 400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("given", "args", "kwargs", "stored"),
    [
        (None, [], {}, None),
        ({"a": 1}, [], {"a": 1}, '{"a": 1}'),
        ('{"a": 1}', [], {"a": 1}, '{"a": 1}'),
        ("plain text", ["plain text"], {}, "plain text"),
        ('"quoted"', ['"quoted"'], {}, '"quoted"'),
        ("[1, 2]", ["[1, 2]"], {}, "[1, 2]"),
        ([1, 2], ["[1, 2]"], {}, "[1, 2]"),
        (7, ["7"], {}, "7"),
        (True, ["true"], {}, "true"),
        ("", [""], {}, ""),
    ],
)
def test_an_object_is_keywords_and_anything_else_one_argument(
    user: User, echo: str, given: Any, args: list[Any], kwargs: dict[str, Any], stored: str | None
) -> None:
    made = user.made("/v1/executions", function_id=echo, input=given)
    assert output_of(made) == [args, kwargs]
    assert made["input"] == stored


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("def main():\n    1 / 0\n", "division by zero", "ZeroDivisionError: division by zero (main.py, line 2)"),
        ("def main():\n    raise SystemExit(3)\n", "3", "SystemExit: 3"),
        ("def main(name):\n    pass\n", "'name'", "can't be called with this input"),
        ("import os\ndef main():\n    os._exit(3)\n", "too much resource consumption", "exit status 3"),
        ("def main():\n    x = b'x' * 10**8\n", "too much resource consumption", "33554432 bytes (32 MiB)"),
        ("import time\ndef main():\n    time.sleep(30)\n", "Function execution timeout", "its timeout of 1 s."),
        ("def main():\n    return {'a': [{1, 2}]}\n", "JSON: result.a[0] is of type set", "result.a[0] is of type set"),
        ("def other():\n    pass\n", "no function 'main'; its functions are: other.", "its functions are: other."),
        ("import nothing_here\n", "No module named 'nothing_here' (main.py, line 1)", "No module named"),
    ],
)
def test_a_run_that_fails_is_an_execution_too_and_says_why(user: User, source: str, output: str, reason: str) -> None:
    function_id = user.function(source, timeout=1)
    made = user.made("/v1/executions", function_id=function_id)
    check(EXECUTION, made)
    assert made["status"] == "failed"
    assert output in output_of(made)
    assert reason in made["status_reason"]
    if "timeout" in output:
        assert json.loads(made["result"])["duration"] >= 1
    assert user.get(f"/v1/functions/{function_id}").json()["count"] == 1
    assert user.get(f"/v1/executions/{made['id']}").json() == made


def test_what_the_platform_fails_at_is_an_error(user: User) -> None:
    image = {"source": "image", "image": "docker-registry/hello-world"}
    function_id = user.made("/v1/functions", name="from an image", code=image)["id"]
    made = user.made("/v1/executions", function_id=function_id)
    nothing = dict.fromkeys(("cold", "queued_ms", "run_ms"), lambda value: value is None)  # no worker was asked for
    check({**EXECUTION, **nothing}, made)
    assert (made["status"], output_of(made)) == ("error", "Function execution failed.")
    assert made["status_reason"]


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({}, 400, "function_id"),
        ({"function_id": None, "function_alias": None}, 400, "function_id"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_version": -1}, 400, "function_version"),
        ({"function_version": "one"}, 400, "function_version"),
        ({"sync": "perhaps"}, 400, "sync"),
        ({"description": "x" * 256}, 400, "description"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_an_execution_that_makes_no_sense_is_refused(
    user: User, function_id: str, fields: dict[str, Any], status: int, field: str
) -> None:
    whole = {} if not fields or "function_id" in fields else {"function_id": function_id}
    error(user.post("/v1/executions", **whole | fields), status, field=field)


def test_the_reference_clients_unknown_fields_are_skipped(user: User, function_id: str) -> None:
    body = {"function_id": function_id, "colour": "red", "function_version": "0", "sync": "True"}
    answer = user.send("POST", "/v1/executions", json=body, headers=REFERENCE_CLIENT)
    assert answer.status_code == 201


def test_the_versions_of_an_image_function_are_not_called(user: User) -> None:
    image = {"source": "image", "image": "docker-registry/hello-world"}
    function_id = user.made("/v1/functions", name="from an image", code=image)["id"]
    error(user.post("/v1/executions", function_id=function_id, function_version=1), 404, field="function_version")


def test_GET_v1_executions_answers_200(user: User) -> None:
    function_id = user.function()
    made = [user.made("/v1/executions", function_id=function_id, input=text) for text in (None, '{"name": "bar"}')]
    answer = user.get("/v1/executions", params={"function_id": function_id})
    assert answer.status_code == 200
    check_all(EXECUTION, answer.json())
    assert answer.json() == made
    for flag in ("true", "True", "1"):
        query = {"function_id": function_id, "all_projects": flag}
        assert user.get("/v1/executions", params=query).json() == made


def test_executions_are_found_by_what_they_show(user: User) -> None:
    function_id = user.function("def main(**kwargs):\n    assert not kwargs.get('fail')\n")
    number = user.version(function_id)
    alias = user.alias(function_id)
    one = user.made("/v1/executions", function_id=function_id, description=f"one of {function_id}")
    two = user.made("/v1/executions", function_id=function_id, function_version=number, input={"fail": True})
    three = user.made("/v1/executions", function_alias=alias)
    for query, rows in (
        ({"function_version": "0"}, [one, three]),
        ({"function_version": number}, [two]),
        ({"function_alias": alias}, [three]),
        ({"status": "failed"}, [two]),
        ({"status": "in:success,failed"}, [one, two, three]),
        ({"description": f"has:of {function_id}"}, [one]),
        ({"project_id": "default"}, [one, two, three]),
        ({"project_id": "another"}, []),
        ({"sync": "true"}, [one, two, three]),
        ({"sync": "false"}, []),
    ):
        assert user.get("/v1/executions", params={"function_id": function_id} | query).json() == rows


def test_GET_v1_executions_id_answers_200(user: User, function_id: str) -> None:
    made = user.made("/v1/executions", function_id=function_id, input={"name": "bar"})
    answer = user.get(f"/v1/executions/{made['id']}")
    assert answer.status_code == 200
    assert answer.json() == made
    error(user.get(f"/v1/executions/{NOBODY}"), 404, NOBODY)


def test_GET_v1_executions_id_log_answers_200(user: User) -> None:
    function_id = user.function(HELLO.replace("Hello, World!", "Grüße"))
    made = user.made("/v1/executions", function_id=function_id)
    answer = user.get(f"/v1/executions/{made['id']}/log")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    lines = f"Start execution: {made['id']}\nGrüße\nFinished execution: {made['id']}\n"
    assert answer.content.decode("utf-8") == lines
    error(user.get(f"/v1/executions/{NOBODY}/log"), 404, NOBODY)


def test_the_log_of_a_failure_has_its_traceback(user: User) -> None:
    function_id = user.function("def main():\n    print('so far')\n    raise ValueError('no luck')\n")
    made = user.made("/v1/executions", function_id=function_id)
    log = user.get(f"/v1/executions/{made['id']}/log").text
    assert log.startswith(f"Start execution: {made['id']}\nso far\nTraceback")
    assert "ValueError: no luck\n" in log
    assert log.endswith(f"Finished execution: {made['id']}\n")


def test_DELETE_v1_executions_id_answers_204(user: User, function_id: str) -> None:
    made = user.made("/v1/executions", function_id=function_id)
    path = f"/v1/executions/{made['id']}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.get(f"{path}/log"), user.delete(path)):
        error(answer, 404, made["id"])


def test_executions_outlive_their_function(user: User) -> None:
    function_id = user.function()
    made = user.made("/v1/executions", function_id=function_id)
    assert user.delete(f"/v1/functions/{function_id}").status_code == 204
    assert user.get(f"/v1/executions/{made['id']}").json() == made
    assert user.get("/v1/executions", params={"function_id": function_id}).json() == [made]
    assert user.delete(f"/v1/executions/{made['id']}").status_code == 204
