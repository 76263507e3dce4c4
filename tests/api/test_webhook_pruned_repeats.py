"""Repeated deliveries to webhooks whose executions were deleted: by retention, or by their owners."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import execution_retries, idempotency, retention
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeClient, FakeEngine
from tests.api.hooks import Hook, end

MakeHook = Callable[..., Hook]
DELIVERY = {"webhook-id": "d-1"}
FAILED = ["failed", "error", "dead"]


@pytest.fixture
def prune(services: Services) -> Callable[[], None]:
    """Lets retention delete all executions that have ended."""

    def prune_all() -> None:
        retention.prune(replace(services.settings, execution_retention_s=0.000_001, executions_kept=0))

    return prune_all


@pytest.fixture
def returns(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the function returns, or how it fails."""

    def set_answer(output: str, status: str = "success") -> None:
        result = f'{{"duration": 0.1, "output": {json.dumps(output)}}}'
        ran = Ran(status, None if status == "success" else "it failed", result, "log", 0.1)
        monkeypatch.setattr(FakeClient, "execute", lambda *args: ran)

    return set_answer


def replays(answer: testing.Result, execution_id: str) -> None:
    """An answer is final, and names the execution of the first delivery."""
    assert (answer.status_code, answer.json) == (202, {"execution_id": execution_id})
    assert answer.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("status", FAILED)
def test_a_repeat_of_a_pruned_failed_delivery_is_accepted_as_a_new_execution(
    make_hook: MakeHook, prune: Callable[[], None], status: str
) -> None:
    hook = make_hook()
    first = hook.send(json={"a": 1}, headers=DELIVERY).json["execution_id"]
    end(first, status)
    prune()

    again = hook.send(json={"a": 1}, headers=DELIVERY)

    assert again.status_code == 202
    assert "idempotent-replayed" not in again.headers
    [execution] = hook.executions()
    assert (execution["id"], execution["status"]) == (again.json["execution_id"], "running")
    assert execution["id"] != first
    replays(hook.send(json={"a": 1}, headers=DELIVERY), execution["id"])
    assert hook.results() == ["accepted", "accepted", "duplicate"]


@pytest.mark.parametrize("status", ["success", "cancelled"])
@pytest.mark.parametrize("becomes_sync", [False, True])
def test_a_repeat_of_another_pruned_delivery_runs_nothing(
    make_hook: MakeHook, prune: Callable[[], None], engine: FakeEngine, status: str, becomes_sync: bool
) -> None:
    hook = make_hook()
    first = hook.send(headers=DELIVERY).json["execution_id"]
    end(first, status)
    prune()
    hook.change(sync=becomes_sync)

    for _ in range(2):
        replays(hook.send(headers=DELIVERY), first)

    assert hook.executions() == []
    assert hook.results() == ["accepted", "duplicate", "duplicate"]


@pytest.mark.parametrize("becomes_sync", [True, False])
def test_a_repeat_of_a_pruned_successful_synchronous_delivery_does_not_run_again(
    make_hook: MakeHook, prune: Callable[[], None], returns: Callable[..., None], becomes_sync: bool
) -> None:
    returns("yes")
    hook = make_hook(sync=True)
    first = hook.send(headers=DELIVERY).headers["x-execution-id"]
    prune()
    hook.change(sync=becomes_sync)

    for _ in range(2):
        replays(hook.send(headers=DELIVERY), first)

    assert hook.executions() == []


@pytest.mark.parametrize("becomes_sync", [True, False])
def test_a_repeat_of_a_pruned_failed_synchronous_delivery_runs_again(
    make_hook: MakeHook, prune: Callable[[], None], returns: Callable[..., None], becomes_sync: bool
) -> None:
    returns("no", "failed")
    hook = make_hook(sync=True)
    assert hook.send(headers=DELIVERY).status_code == 502
    prune()
    returns("yes")
    hook.change(sync=becomes_sync)

    again = hook.send(headers=DELIVERY)

    assert again.status_code == (200 if becomes_sync else 202)
    assert "idempotent-replayed" not in again.headers
    assert len(hook.executions()) == 1


def test_a_repeat_of_a_failed_delivery_runs_at_once_if_the_webhook_is_synchronous_now(
    make_hook: MakeHook, prune: Callable[[], None], returns: Callable[..., None]
) -> None:
    hook = make_hook()
    end(hook.send(headers=DELIVERY).json["execution_id"], "dead")
    prune()
    returns("yes")
    hook.change(sync=True)

    answers = [hook.send(headers=DELIVERY) for _ in range(2)]

    assert [(answer.status_code, answer.json) for answer in answers] == [(200, "yes")] * 2
    assert ["idempotent-replayed" in answer.headers for answer in answers] == [False, True]


def test_a_repeat_of_a_synchronous_delivery_that_its_owner_has_deleted_runs_nothing(
    client: Client, make_hook: MakeHook, returns: Callable[..., None]
) -> None:
    returns("no", "failed")
    hook = make_hook(sync=True)
    first = hook.send(headers=DELIVERY).headers["x-execution-id"]
    assert client.simulate_delete(f"/v1/executions/{first}").status_code == 204

    replays(hook.send(headers=DELIVERY), first)

    assert hook.executions() == []


def test_a_limit_refuses_a_repeat_that_would_run_and_not_one_that_runs_nothing(
    client: Client, make_hook: MakeHook, prune: Callable[[], None]
) -> None:
    hook = make_hook()
    first = {one: hook.send(headers={"webhook-id": one}).json["execution_id"] for one in ("failed", "success")}
    for status, execution_id in first.items():
        end(execution_id, status)
    prune()
    assert client.simulate_put("/v1/quotas", json={"executions": 0}).status_code == 200

    assert_error(hook.send(headers={"webhook-id": "failed"}), 503, "Send it again later")
    replays(hook.send(headers={"webhook-id": "success"}), first["success"])


@pytest.mark.parametrize("becomes_sync", [False, True])
def test_a_failed_execution_that_is_pruned_while_a_repeat_looks_at_it_is_not_lost(
    make_hook: MakeHook, prune: Callable[[], None], monkeypatch: pytest.MonkeyPatch, becomes_sync: bool
) -> None:
    hook = make_hook()
    first = hook.send(headers=DELIVERY).json["execution_id"]
    end(first, "failed")
    hook.change(sync=becomes_sync)
    retry = execution_retries.retry

    def prune_first(*about: Any) -> Any:
        prune()
        return retry(*about)

    monkeypatch.setattr(execution_retries, "retry", prune_first)
    again = hook.send(headers=DELIVERY)

    assert again.status_code == (200 if becomes_sync else 202)
    assert "idempotent-replayed" not in again.headers
    [execution] = hook.executions()
    assert execution["id"] != first


def test_of_repeats_at_once_of_a_pruned_failed_delivery_one_runs(
    make_hook: MakeHook, prune: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook()
    end(hook.send(headers=DELIVERY).json["execution_id"], "failed")
    prune()
    forget, others = idempotency.forget, []

    def forget_last(*about: Any) -> None:
        """Another repeat comes first, after this one has found the key without a row."""
        if not others:
            others.append(None)
            others.append(hook.send(headers=DELIVERY))
        forget(*about)

    monkeypatch.setattr(idempotency, "forget", forget_last)
    late = hook.send(headers=DELIVERY)

    replays(late, others[1].json["execution_id"])
    assert len(hook.executions()) == 1
