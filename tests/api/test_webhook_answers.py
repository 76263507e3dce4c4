"""Webhooks whose senders wait for the function's answer, and pages of other sites that call webhooks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from qinling_falcon.errors import NotRecorded, Unavailable
from qinling_falcon.invocation.worker_client import Ran
from qinling_falcon.models import clock, idempotency
from qinling_falcon.models.idempotency import KeyClaim
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeClient, FakeEngine
from tests.api.hooks import GITHUB, Hook, end
from tests.models.factories import make_record

MakeHook = Callable[..., Hook]
SHOP = "https://shop.example"


@pytest.fixture
def returns(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the function returns, or how it fails."""

    def set_answer(output: Any, status: str = "success") -> None:
        result = f'{{"duration": 0.1, "output": {json.dumps(output)}}}'
        ran = Ran(status, None if status == "success" else "it failed", result, "log", 0.1)
        monkeypatch.setattr(FakeClient, "execute", lambda *args: ran)

    return set_answer


def test_the_function_makes_the_answer(
    client: Client, make_hook: MakeHook, returns: Callable[..., None]
) -> None:
    returns({"statusCode": 418, "headers": {"Content-Type": "text/html", "Set-Cookie": "a=b"}, "body": "<p>tea</p>"})
    hook = make_hook(sync=True)
    answer = hook.send()
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (418, "<p>tea</p>", "text/html")
    assert answer.headers["content-security-policy"] == "sandbox"
    assert "set-cookie" not in answer.headers
    execution = client.simulate_get(f"/v1/executions/{answer.headers['x-execution-id']}").json
    assert (execution["sync"], execution["source"], execution["webhook_id"]) == (True, "webhook", hook.id)
    assert hook.results() == ["accepted"]


def test_any_other_value_is_JSON(make_hook: MakeHook, returns: Callable[..., None]) -> None:
    returns({"a": [1, None]})
    answer = make_hook(sync=True).send()
    assert (answer.status_code, answer.json) == (200, {"a": [1, None]})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("division by zero", "failed", 502),
        ("Function execution timeout", "failed", 504),
        ("Function execution failed.", "error", 502),
        ({"statusCode": 7}, "success", 502),
    ],
)
def test_failures_of_the_function_are_told_without_their_reasons(
    make_hook: MakeHook, returns: Callable[..., None], output: Any, status: str, expected: int
) -> None:
    returns(output, status)
    answer = make_hook(sync=True).send()
    assert_error(answer, expected)
    assert "zero" not in answer.text
    assert answer.headers["x-execution-id"]


def test_a_delivery_is_logged_with_the_time_at_which_it_came_in(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(sync=True)
    execute = FakeClient.execute

    def send_another(*args: Any) -> Ran:
        monkeypatch.undo()
        assert hook.send(headers={"webhook-id": "second"}).status_code == 200
        return execute(*args)

    monkeypatch.setattr(FakeClient, "execute", send_another)
    assert hook.send(headers={"webhook-id": "first"}).status_code == 200

    assert [row["delivery_id"] for row in hook.deliveries()] == ["second", "first"], "the newest first"


def test_no_worker_is_503_with_the_time_to_try_again(make_hook: MakeHook, engine: FakeEngine) -> None:
    engine.error = Unavailable("No worker of runtime python3 was free.", retry_after_s=7)
    hook = make_hook(sync=True)
    answer = hook.send()
    assert_error(answer, 503, "can't take this delivery now")
    assert answer.headers["retry-after"] == "7"
    assert "python3" in hook.deliveries()[0]["reason"]


def test_a_sender_is_not_told_to_repeat_what_may_have_run(make_hook: MakeHook, engine: FakeEngine) -> None:
    execution_id = str(uuid.uuid4())
    engine.error = NotRecorded(execution_id, "has run")
    hook = make_hook(sync=True)
    answer = hook.send()
    assert_error(answer, 503, "may run twice")
    assert "retry-after" not in answer.headers
    assert answer.headers["x-execution-id"] == execution_id
    [logged] = hook.deliveries()
    assert (logged["result"], logged["execution_id"]) == ("accepted", execution_id)


def test_a_repeat_gets_the_first_answer_and_runs_again_only_after_a_failure(
    make_hook: MakeHook, returns: Callable[..., None], engine: FakeEngine
) -> None:
    hook = make_hook(sync=True, signature=GITHUB)
    delivery = {"X-GitHub-Delivery": "d-1"}
    returns("no", "failed")
    failed = hook.send_signed(**delivery)
    assert failed.status_code == 502
    returns("yes")
    first = hook.send_signed(**delivery)
    assert (first.status_code, first.json) == (200, "yes")
    assert first.headers["x-execution-id"] != failed.headers["x-execution-id"]
    returns("something else")
    again = hook.send_signed(**delivery)
    assert (again.status_code, again.json) == (200, "yes")
    assert again.headers["x-execution-id"] == first.headers["x-execution-id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert hook.results() == ["accepted", "accepted", "duplicate"]


def test_a_rate_limit_holds_for_synchronous_deliveries(make_hook: MakeHook) -> None:
    hook = make_hook(sync=True, rate_limit={"per_minute": 1, "burst": 1})
    assert [hook.send().status_code for _ in range(2)] == [200, 429]


def test_a_preflight_is_answered_for_the_origins_of_the_webhook(make_hook: MakeHook) -> None:
    hook = make_hook(cors=[SHOP], methods=["POST", "PUT"])
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    answer = hook.send("OPTIONS", headers={"Origin": SHOP, **asked})
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert answer.headers["access-control-allow-methods"] == "POST, PUT"
    assert answer.headers["access-control-allow-headers"] == "content-type"
    stranger = hook.send("OPTIONS", headers={"Origin": "https://other.example", **asked})
    assert "access-control-allow-origin" not in stranger.headers
    assert hook.executions() == []
    assert hook.send("OPTIONS").status_code == 405, "this is no preflight"


def test_without_cors_there_is_no_preflight(make_hook: MakeHook) -> None:
    hook = make_hook()
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    assert hook.send("OPTIONS", headers=asked).status_code == 405
    assert "access-control-allow-origin" not in hook.send(headers={"Origin": SHOP}).headers


def test_pages_of_the_origins_can_read_answers_and_errors(make_hook: MakeHook) -> None:
    hook = make_hook(cors=[SHOP], signature=GITHUB)
    of_shop = {"Origin": SHOP}
    for answer in (hook.send_signed(Origin=SHOP), hook.send(headers=of_shop), hook.send("GET", headers=of_shop)):
        assert answer.headers["access-control-allow-origin"] == SHOP, answer.status_code
        assert "Origin" in answer.headers["vary"]
    hook.change(cors=[])
    assert "access-control-allow-origin" not in hook.send(headers={"Origin": SHOP}).headers


def test_preflights_follow_a_change_at_once(client_with: Callable[..., Client], make_hook: MakeHook) -> None:
    hook = make_hook(cors=[SHOP])
    there = Hook(client_with(), hook.services, hook.id)
    asked = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    assert there.send("OPTIONS", headers=asked).status_code == 204
    hook.change(cors=[])
    assert there.send("OPTIONS", headers=asked).status_code == 405


def claimed(hook: Hook, monkeypatch: pytest.MonkeyPatch, delivery_id: str) -> KeyClaim:
    """The claim that is left if a process dies while its synchronous delivery waits for a worker."""
    claims: list[KeyClaim] = []

    def see(wanted: KeyClaim, *_: Any) -> bool:
        claims.append(wanted)
        raise Unavailable("The database is away.")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "claim", see)
        assert hook.send(headers={"webhook-id": delivery_id}).status_code == 503
    now = clock.now()
    assert idempotency.claim(claims[0], now, now + timedelta(minutes=1))
    return claims[0]


def test_a_repeat_is_not_accepted_as_an_execution_that_may_never_exist(
    client: Client, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(sync=True)
    claim = claimed(hook, monkeypatch, "d-1")
    hook.change(sync=False)
    answer = hook.send(headers={"webhook-id": "d-1"})
    assert_error(answer, 503, "can't take this delivery now")
    assert int(answer.headers["retry-after"]) > 0
    assert "has not ended" in hook.deliveries()[0]["reason"]
    idempotency.extend([claim], clock.now())  # as if the time had passed
    again = hook.send(headers={"webhook-id": "d-1"})
    assert again.status_code == 202
    assert "idempotent-replayed" not in again.headers
    [execution] = hook.executions()
    assert (execution["id"], execution["sync"]) == (again.json["execution_id"], False)
    assert not idempotency.begin(claim, make_record("f", id=claim.execution_id)), "the first one can't run any more"


def test_a_failed_execution_is_queued_again_also_if_the_webhook_is_synchronous_now(
    client: Client, make_hook: MakeHook
) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"}).json["execution_id"]
    end(first, "failed")
    hook.change(sync=True)
    again = hook.send(headers={"webhook-id": "d-1"})
    assert (again.status_code, again.json["execution_id"]) == (202, first)
    assert client.simulate_get(f"/v1/executions/{first}").json["status"] == "running"


def test_a_repeat_is_accepted_if_the_function_has_failed_while_the_webhook_was_synchronous(
    make_hook: MakeHook, returns: Callable[..., None]
) -> None:
    returns("no", "failed")
    hook = make_hook(sync=True)
    failed = hook.send(headers={"webhook-id": "d-1"})
    hook.change(sync=False)
    accepted = hook.send(headers={"webhook-id": "d-1"})
    assert accepted.status_code == 202
    assert accepted.json["execution_id"] != failed.headers["x-execution-id"]
    assert hook.results() == ["accepted", "accepted"]
