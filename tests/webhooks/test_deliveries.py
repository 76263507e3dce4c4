"""Callbacks from the end of an execution to the receiver: what is sent."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models import database, execution, function
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from tests.models.factories import make_function
from tests.support.secrets import SECRET
from tests.webhooks.deliveries import OWNER, check_signature, deliver, rows, run
from tests.webhooks.receiver import Receiver


def test_the_check_in_the_documents_works(calling_id: str, receiving: Receiver, delivering: Callbacks) -> None:
    text = (Path(__file__).parents[2] / "docs" / "callbacks.md").read_text()
    made: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], made)
    run(calling_id)
    assert deliver(delivering) == 1
    [request] = receiving.received

    assert made["verify"](SECRET, request.headers, request.body)
    assert not made["verify"](SECRET, request.headers, request.body + b" ")
    assert not made["verify"](SECRET, request.headers | {"webhook-timestamp": "1"}, request.body)


def test_a_success_is_delivered_signed_and_without_log(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    final = run(calling_id, input='{"a": "ü"}', description="nightly")

    assert deliver(delivering) == 1

    [request] = receiving.received
    check_signature(request)
    assert request.path == "/done"
    assert request.headers["webhook-id"].startswith(f"{final.id}-")
    assert request.headers["qinling-callback-depth"] == "1"
    message = request.message
    assert message.keys() == {"type", "timestamp", "data"}
    assert message["type"] == "execution.success"
    assert datetime.datetime.fromisoformat(message["timestamp"]) == final.updated_at
    assert message["data"] == json.loads(json.dumps(ExecutionShown().show(execution.get(OWNER, final.id))))
    assert (message["data"]["status"], message["data"]["input"]) == ("success", '{"a": "ü"}')
    assert "log" not in message["data"]
    assert rows() == []


@pytest.mark.parametrize("status", ["failed", "error", "dead"])
def test_a_failure_is_delivered(calling_id: str, receiving: Receiver, delivering: Callbacks, status: str) -> None:
    run(calling_id, status)

    assert deliver(delivering) == 1

    [request] = receiving.received
    assert (request.path, request.message["type"]) == ("/failed", "execution.failure")
    assert request.message["data"]["status"] == status


def test_without_a_secret_requests_are_not_signed(
    runtime_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    run(make_function(OWNER, runtime_id, on_success=receiving.url()).id)

    assert deliver(delivering) == 1

    assert "webhook-signature" not in receiving.received[0].headers
    assert "webhook-id" in receiving.received[0].headers


def test_with_nothing_due_there_is_one_query(
    settings: Settings, delivering: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = database.engine()
    statements: list[str] = []
    execute = engine.execute_sql
    monkeypatch.setattr(engine, "execute_sql", lambda sql, *more: statements.append(sql) or execute(sql, *more))

    assert delivering.deliver_due() == 0

    [statement] = statements
    assert statement.startswith("SELECT 1")
    assert statement.endswith("LIMIT 1")


@pytest.mark.parametrize("depth", [None, 0, 1, 2])
def test_the_depth_grows_by_one(
    calling_id: str, receiving: Receiver, delivering: Callbacks, depth: int | None
) -> None:
    run(calling_id, callback_depth=depth)

    assert deliver(delivering) == 1

    assert receiving.received[0].headers["qinling-callback-depth"] == str((depth or 0) + 1)


def test_requests_are_signed_with_the_present_secret(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    function.update(OWNER, calling_id, {"callback_secret": None})
    run(calling_id)
    function.update(OWNER, calling_id, {"callback_secret": SECRET})

    assert deliver(delivering) == 1

    check_signature(receiving.received[0])


def test_requests_go_to_the_url_at_the_end_of_the_execution(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    run(calling_id)
    function.update(OWNER, calling_id, {"on_success": receiving.url("/later")})
    run(calling_id)

    assert deliver(delivering) == 2

    assert {request.path for request in receiving.received} == {"/done", "/later"}
