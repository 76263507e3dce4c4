"""Executions, by the real library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Client, ClientError, Driver, output_of
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("client")

ECHO = "def main(*args, **kwargs):\n    kwargs.pop('context')\n    return [args, kwargs]\n"


@pytest.fixture(scope="module")
def echoes() -> dict[str, str]:
    return {}


@pytest.fixture
def echo(make: Maker, echoes: dict[str, str]) -> str:
    """The id of a function that returns its arguments; one for the module."""
    if not echoes:
        echoes["id"] = make(ECHO)["id"]
    return echoes["id"]


@pytest.mark.parametrize(
    ("given", "stored", "seen"),
    [
        ('{"name": "Ada"}', '{"name": "Ada"}', [[], {"name": "Ada"}]),
        ({"name": "Ada"}, '{"name": "Ada"}', [[], {"name": "Ada"}]),
        ("plain ünd text", "plain ünd text", [["plain ünd text"], {}]),
        ("7", "7", [["7"], {}]),
        ("", "", [[""], {}]),
        (None, None, [[], {}]),
    ],
)
def test_input_reaches_the_function(client: Client, echo: str, given: Any, stored: str | None, seen: Any) -> None:
    execution = client.function_executions.create(function_id=echo, input=given)
    assert output_of(execution) == seen
    assert execution["input"] == stored
    assert (execution["status"], execution["sync"]) == ("success", True)


def test_execution_is_shown_and_listed(
    client: Client, echo: str, make: Maker, check_fields: Callable[..., None]
) -> None:
    other = make("def main():\n    raise ValueError('no')\n")["id"]
    made = client.function_executions.create(function_id=echo)
    failed = client.function_executions.create(function_id=other)
    assert failed["status"] == "failed"
    assert client.function_executions.get(made["id"]) == made

    def ids(**filters: Any) -> list[str]:
        return [row["id"] for row in client.function_executions.list(**filters)]

    assert ids()[-2:] == ids(all_projects=True)[-2:] == ids(project_id="default")[-2:] == [made["id"], failed["id"]]
    assert ids(function_id=other) == [failed["id"]]
    assert ids(function_id=f"neq:{other}")[-1] == ids(status="success")[-1] == made["id"]
    assert ids(status="failed", function_id=f"in:{other},{echo}") == [failed["id"]]
    assert ids(description="has:nothing of the kind") == []
    check_fields("execution", made, failed, *client.function_executions.list())


@pytest.mark.parametrize(
    ("source", "output", "reason"),
    [
        ("def main():\n    1 / 0\n", "division by zero", "ZeroDivisionError: division by zero (main.py, line 2)"),
        ("def main():\n    return [{1}]\n", "The result can't be JSON: result[0] is of type set.", "result[0]"),
        ("def mian():\n    pass\n", "Module 'main' has no function 'main'; its functions are: mian.", "mian"),
    ],
)
def test_failed_execution_says_why(client: Client, make: Maker, source: str, output: str, reason: str) -> None:
    execution = client.function_executions.create(function_id=make(source)["id"])
    assert execution["status"] == "failed"
    assert output in output_of(execution)
    assert reason in execution["status_reason"]


def test_log_is_text(driver: Driver, make: Maker) -> None:
    client = Client(driver, session=True)  # without a session the library answers None: it drops what is not JSON
    made = make("def main():\n    print('grüße')\n")
    execution = client.function_executions.create(made["id"])
    assert client.function_executions.get_log(execution["id"]) == (
        f"Start execution: {execution['id']}\ngrüße\nFinished execution: {execution['id']}\n"
    )


def test_version_and_alias_name_what_runs(client: Client, make: Maker, name: str) -> None:
    made = make()
    client.function_versions.create(made["id"])
    client.function_aliases.create(name, made["id"], 1)

    by_version = client.function_executions.create(made["id"], function_version="1")
    assert (by_version["function_id"], by_version["function_version"]) == (made["id"], 1)
    by_alias = client.function_executions.create(function_alias=name, function_version=None)
    assert by_alias["function_alias"] == name
    assert [output_of(execution) for execution in (by_version, by_alias)] == ["Hello, World"] * 2
    assert client.function_versions.get(made["id"], 1)["count"] == 2
    assert client.functions.get(made["id"])["count"] == 0
    assert [row["id"] for row in client.function_executions.list(function_alias=name)] == [by_alias["id"]]


def test_deleted_execution_is_gone(client: Client, echo: str) -> None:
    made = client.function_executions.create(echo)
    assert client.function_executions.delete(made["id"]) is None
    for read in (client.function_executions.get, client.function_executions.get_log, client.function_executions.delete):
        with pytest.raises(ClientError) as gone:
            read(made["id"])
        assert gone.value.kind == "HTTPNotFound"


def test_asynchronous_execution_is_answered_at_once_and_ends_later(client: Client, make: Maker) -> None:
    made = client.function_executions.create(make()["id"], sync=False)
    assert (made["status"], made["result"], made["sync"]) == ("running", None, False)

    def ended() -> bool:
        return bool(client.function_executions.get(made["id"])["status"] == "success")

    wait_until("the execution has ended", ended)
    assert output_of(client.function_executions.get(made["id"])) == "Hello, World"
