"""`Idempotency-Key`: a repeated request gets the execution of the first one, and the function runs once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import idempotency
from qinling_falcon.models.scope import Context
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeClient, FakeEngine, FakeWorkers
from tests.api.repeats import executions, post, replays


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_repeated_request_gets_the_first_answer(client: Client, function_id: str, is_sync: bool) -> None:
    body = {"function_id": function_id, "input": {"a": 1}, "description": "d", "sync": is_sync}
    first = post(client, **body)

    assert first.status_code == 201
    assert "idempotent-replayed" not in first.headers
    for _ in range(2):
        replays(post(client, **body), first)
    assert [row.id for row in executions()] == [first.json["id"]]


def test_requests_without_a_key_never_look_at_keys(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("a key was looked at")

    for name in ("find", "claim", "begin", "accept", "release"):
        monkeypatch.setattr(idempotency, name, fail)
    for is_sync in (True, False):
        assert post(client, None, function_id=function_id, sync=is_sync).status_code == 201
    assert len(executions()) == 2


def test_a_failure_of_the_function_is_replayed(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = Ran("failed", "it raised", '{"duration": 0.1, "output": "no"}', "the log", 0.1)
    monkeypatch.setattr(FakeClient, "execute", lambda *args: failed)
    first = post(client, function_id=function_id)

    assert first.json["status"] == "failed"
    replays(post(client, function_id=function_id), first)


def test_the_spelling_of_the_body_does_not_matter(client: Client, function_id: str) -> None:
    first = post(client, function_id=function_id, input={"a": 1, "b": [2.5]})
    for body in (
        f'{{"input": {{"b":[2.5],"a":1}}, "function_id": "{function_id.upper()}"}}',
        f'{{"function_id": "{function_id}", "sync": "true", "input": "{{\\"b\\": [2.50], \\"a\\": 1}}"}}',
        f'{{"function_id": "{function_id}", "description": null, "input": {{"a": 1, "b": [2.5]}}}}',
        f'{{"function_version": "0", "function_id": "{function_id}", "input": {{"\\u0061": 1, "b": [2.5]}}}}',
    ):  # fmt: skip
        replays(client.send("POST", "/v1/executions", body.encode(), headers={"Idempotency-Key": "k"}), first)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"a": 2}}, {"input": None}, {"input": "text"}, {"input": {"a": "1"}}, {"sync": False},
        {"description": "other"}, {"function_id": str(uuid.uuid4())}, {"function_alias": "prod"},
        {"function_version": 1},
    ],
)  # fmt: skip
def test_another_request_with_the_key_is_refused(
    client: Client, function_id: str, engine: FakeEngine, changes: dict[str, Any]
) -> None:
    body = {"function_id": function_id, "input": {"a": 1}}
    first = post(client, "order 7", **body)

    answer = post(client, "order 7", **body | changes)

    assert_error(answer, 422, 'Idempotency-Key "order 7"', "other fields", "new key")
    assert len(engine.calls) == 1
    replays(post(client, "order 7", **body), first)


def test_another_asynchronous_request_with_the_key_is_refused(client: Client, function_id: str) -> None:
    post(client, function_id=function_id, sync=False, input="1")
    assert_error(post(client, function_id=function_id, sync=False, input="2"), 422, "other fields")


@pytest.mark.parametrize(
    ("one", "other"), [("a b", '"a b"'), ('a"b', '"a\\"b"'), ("a\\b", '"a\\\\b"'), ("k", "  k\t"), ("~" * 255,) * 2]
)
def test_a_quoted_key_is_the_plain_one(client: Client, function_id: str, one: str, other: str) -> None:
    first = post(client, one, function_id=function_id)
    assert first.status_code == 201
    replays(post(client, other, function_id=function_id), first)


@pytest.mark.parametrize(
    "key",
    [
        "", '""', "ä", "a\tb", "a\x7f", '"', '"a', '"a"b', '"a";x=1', '"a", "b"', '"\\a"', "x" * 256,
        '"' + "x" * 256 + '"',
    ],
)  # fmt: skip
def test_a_header_that_is_no_key_is_refused(client: Client, engine: FakeEngine, function_id: str, key: str) -> None:
    assert_error(post(client, key, function_id=function_id), 400, "Idempotency-Key", "1 to 255")
    assert engine.calls == []


def test_keys_of_two_projects_are_apart(
    client: Client, function_id: str, act_as: Callable[[Context], None]
) -> None:
    first = post(client, function_id=function_id)
    act_as(Context("another", is_admin=True))

    second = post(client, function_id=function_id)

    assert second.status_code == 201
    assert second.json["id"] != first.json["id"]
    replays(post(client, function_id=function_id), second)


def test_a_caller_who_may_not_see_the_execution_gets_404(
    client: Client, function_id: str, act_as: Callable[[Context], None]
) -> None:
    act_as(Context("another", is_admin=True))
    first = post(client, function_id=function_id)
    act_as(Context("another"))
    assert_error(post(client, function_id=function_id), 404, first.json["id"])


def test_while_the_first_request_runs_a_repeated_one_is_refused(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute, meanwhile = FakeClient.execute, []

    def repeat(*args: Any) -> Ran:
        meanwhile.append(post(client, function_id=function_id))
        meanwhile.append(post(client, function_id=function_id, input="other"))
        return execute(*args)

    monkeypatch.setattr(FakeClient, "execute", repeat)
    first = post(client, function_id=function_id)
    monkeypatch.undo()

    running, other = meanwhile
    assert_error(running, 409, 'Idempotency-Key "k"', "has not ended", first.json["id"])
    assert running.headers["retry-after"] == "1"
    assert_error(other, 422)
    assert first.status_code == 201
    replays(post(client, function_id=function_id), first)


def test_while_the_first_request_waits_for_a_worker_a_repeated_one_is_refused(
    client: Client, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, meanwhile = FakeWorkers.lease_loaded, []

    def repeat(*args: Any) -> Any:
        monkeypatch.undo()
        meanwhile.append(post(client, function_id=function_id))
        return lease(*args)

    monkeypatch.setattr(FakeWorkers, "lease_loaded", repeat)
    first = post(client, function_id=function_id)

    assert_error(meanwhile[0], 409, "has not ended", first.json["id"])
    assert int(meanwhile[0].headers["retry-after"]) >= 1
    replays(post(client, function_id=function_id), first)
