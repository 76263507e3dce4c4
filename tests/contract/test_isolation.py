"""Isolation by call, from the API to the workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.service import User
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("contract")

COUNT = (
    "import os\ncalls = 0\ndef main():\n    global calls\n    calls += 1\n    seen = os.listdir('/tmp')\n"
    "    open('/tmp/left', 'w').close()\n    return [calls, seen]\n"
)
FRESH: list[Any] = [1, []]


@pytest.fixture
def strict(user: User) -> Iterator[str]:
    """A runtime with isolation by call. It is deleted in the end, because its warm workers take places in the pool."""
    image = user.get(f"/v1/runtimes/{user.runtime_id()}").json()["image"]
    made = user.made("/v1/runtimes", image=image, isolation="per_call")
    path = f"/v1/runtimes/{made['id']}"
    wait_until("the runtime is available", lambda: user.get(path).json()["status"] == "available")
    yield made["id"]
    for function in user.get(f"/v1/functions?runtime_id={made['id']}").json():
        assert user.delete(f"/v1/functions/{function['id']}").status_code == 204
    assert user.delete(path).status_code == 204


def outputs(user: User, function_id: str, version: int = 0) -> list[Any]:
    """The outputs of three calls."""
    made = [user.made("/v1/executions", function_id=function_id, function_version=version) for _ in range(3)]
    return [json.loads(execution["result"])["output"] for execution in made]


def test_each_call_of_a_strict_runtime_is_the_first_one(user: User, strict: str) -> None:
    assert outputs(user, user.function(COUNT, runtime_id=strict)) == [FRESH] * 3


def test_a_functions_isolation_applies_to_its_workers(user: User) -> None:
    function_id = user.function(COUNT)
    assert [calls for calls, _ in outputs(user, function_id)] == [1, 2, 3]
    assert user.put(f"/v1/functions/{function_id}", isolation="per_call").status_code == 200
    assert outputs(user, function_id) == [FRESH] * 3
    assert user.made(f"/v1/functions/{function_id}/versions")["version_number"] == 1
    assert user.put(f"/v1/functions/{function_id}", isolation="warm").status_code == 200
    assert outputs(user, function_id, 1) == [FRESH] * 3
    assert [calls for calls, _ in outputs(user, function_id)] == [1, 2, 3]


def test_a_runtimes_change_reaches_workers_that_are_assigned(user: User, strict: str) -> None:
    function_id = user.function(COUNT, runtime_id=strict)
    path = f"/v1/runtimes/{strict}"
    for isolation, calls in (("per_call", [1, 1, 1]), ("warm", [1, 2, 3]), ("per_call", [1, 1, 1])):
        assert user.put(path, isolation=isolation).json()["isolation"] == isolation
        assert [count for count, _ in outputs(user, function_id)] == calls
