"""The workers of functions: how many, which, and how to be rid of them; by the real library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Client, ClientError, output_of
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("client")

COUNTING = "calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n"


def names(client: Client, function_id: str) -> set[str]:
    return {row["worker_name"] for row in client.function_workers.list(function_id)}


def test_workers_of_a_function_are_listed(client: Client, make: Maker, check_fields: Callable[..., None]) -> None:
    made = make()
    assert client.function_workers.list(made["id"]) == []
    client.function_executions.create(made["id"])
    (worker,) = client.function_workers.list(made["id"])
    assert worker["function_id"] == made["id"]
    assert worker["worker_name"]
    check_fields("worker", worker)
    client.functions.delete(made["id"])


def test_detach_ends_the_workers_and_the_next_call_gets_a_fresh_one(client: Client, make: Maker) -> None:
    made = make(COUNTING)
    assert [output_of(client.function_executions.create(made["id"])) for _ in range(2)] == [1, 2]
    before = names(client, made["id"])

    assert client.functions.detach(made["id"])["status"] == 202

    wait_until("the worker is gone", lambda: not names(client, made["id"]) & before)
    assert output_of(client.function_executions.create(made["id"])) == 1
    client.functions.delete(made["id"])


def test_scaling_adds_workers_and_takes_them_away_but_for_one(client: Client, make: Maker) -> None:
    made = make()
    response, _ = client.functions.scaleup(made["id"])
    assert response["status"] == 202
    wait_until("there is one worker", lambda: len(names(client, made["id"])) == 1)
    client.functions.scaleup(made["id"], count=2)
    wait_until("there are three workers", lambda: len(names(client, made["id"])) == 3)

    response, _ = client.functions.scaledown(made["id"])
    assert response["status"] == 202
    wait_until("there are two workers", lambda: len(names(client, made["id"])) == 2)
    client.functions.scaledown(made["id"], count=5)
    wait_until("there is one worker", lambda: len(names(client, made["id"])) == 1)
    client.functions.delete(made["id"])


def test_scaling_by_nothing_is_refused(client: Client, make: Maker) -> None:
    made = make()
    for scale in (client.functions.scaleup, client.functions.scaledown):
        with pytest.raises(ClientError, match="count") as refused:
            scale(made["id"], count=0)
        assert refused.value.kind == "HTTPBadRequest"


def test_detach_of_a_version_leaves_the_workers_of_the_function(
    client: Client, make: Maker, zipped: Callable[[str], Path]
) -> None:
    made = make(COUNTING)
    version = client.function_versions.create(made["id"])["version_number"]
    assert output_of(client.function_executions.create(made["id"])) == 1
    assert output_of(client.function_executions.create(made["id"], function_version=version)) == 1

    assert client.function_versions.detach(made["id"], version)["status"] == 202

    assert output_of(client.function_executions.create(made["id"], function_version=version)) == 1
    assert output_of(client.function_executions.create(made["id"])) == 2
    client.functions.delete(made["id"])
