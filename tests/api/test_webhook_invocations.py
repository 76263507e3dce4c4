"""Deliveries to webhooks: what is accepted, what the function gets, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from falcon import testing
from gevent.event import Event

from qinling_falcon.models import execution_queue
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.resources import webhook_invocations
from qinling_falcon.resources.bodies import read_body
from qinling_falcon.resources.services import Services
from qinling_falcon.turns import OneAtATime
from tests.api.client import Client, assert_error
from tests.api.hooks import Hook
from tests.pool.side import wait_until

pytestmark = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
NOBODY = "0197a1c9-90ab-7cde-8f01-23456789abcd"
MakeHook = Callable[..., Hook]


def accepted(client: Client, answer: testing.Result) -> dict[str, Any]:
    """The execution of an accepted delivery."""
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"http://localhost:7070/v1/executions/{answer.json['execution_id']}"
    return dict(client.simulate_get(f"/v1/executions/{answer.json['execution_id']}").json)


def test_a_delivery_is_accepted_and_its_execution_names_the_webhook(
    client: Client, make_hook: MakeHook, function_id: str
) -> None:
    hook = make_hook()
    answer = hook.send(json={"name": "Ada"}, query_string="colour=red")
    execution = accepted(client, answer)
    assert json.loads(execution["input"]) == {"name": "Ada", "colour": "red"}
    expected = {
        "function_id": function_id, "status": "running", "sync": False, "source": "webhook", "webhook_id": hook.id,
        "description": f"Created by Webhook {hook.id}", "project_id": "default",
        "request_id": answer.headers["x-request-id"],
    }  # fmt: skip
    assert {name: execution[name] for name in expected} == expected
    [delivery] = hook.deliveries()
    assert delivery == {
        "received_at": delivery["received_at"], "delivery_id": None, "result": "accepted", "reason": None,
        "execution_id": execution["id"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, None),
        ({"body": b"not JSON"}, "not JSON"),
        ({"json": [1, 2]}, "[1,2]"),
        ({"body": b"a=1&b=2", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, {"a": "1", "b": "2"}),
        ({"query_string": "a=1&a=2"}, {"a": ["1", "2"]}),
    ],
)
def test_the_body_and_the_query_are_the_input(
    client: Client, make_hook: MakeHook, request_: dict[str, Any], expected: Any
) -> None:
    given = accepted(client, make_hook().send(**request_))["input"]
    if isinstance(expected, dict):
        assert json.loads(given) == expected
    else:
        assert given is None if expected is None else given.replace(" ", "") == expected.replace(" ", "")


def test_an_alias_is_followed(client: Client, make_hook: MakeHook, function_id: str) -> None:
    assert client.simulate_post("/v1/aliases", json={"name": "live", "function_id": function_id}).status_code == 201
    execution = accepted(client, make_hook(function_id=None, function_alias="live").send())
    assert (execution["function_id"], execution["function_alias"]) == (function_id, "live")


def test_an_unknown_webhook_is_not_found_and_no_uuid_is_no_id(client: Client) -> None:
    for path in ("", "/below"):
        for method in ("GET", "POST", "PATCH", "OPTIONS", "PROPFIND"):
            assert_error(client.simulate_request(method, f"/v1/webhooks/{NOBODY}/invoke{path}"), 404, NOBODY)
        assert_error(client.simulate_post(f"/v1/webhooks/seven/invoke{path}"), 400, "Expected a uuid")


def test_only_the_methods_of_the_webhook_are_taken(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "PURGE"):
        answer = hook.send(method)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), method
    hook.change(methods=["get", "PUT"])
    assert hook.send("GET").status_code == 202
    assert_error(hook.send("POST"), 405, "Allowed are GET, PUT.")
    assert hook.send("HEAD").status_code == 405, "HEAD runs the function, too, so it must be named"
    hook.change(methods=["*"])
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "REPORT", "QUERY", "PURGE", "FOO"):
        page = {"Origin": "https://shop.example"}
        assert hook.send(method, headers=page).status_code == 202, method


def test_paths_below_the_url_are_taken_with_subpaths(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    assert_error(hook.send(path="/orders/7"), 404, "no paths below")
    hook.change(subpaths=True)
    assert hook.send(path="/orders/7").status_code == 202
    assert hook.send().status_code == 202


def test_the_function_gets_the_whole_request_if_it_asks_for_it(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook(methods=["*"], subpaths=True, pass_request=True)
    answer = hook.send(
        "PUT", "/orders/7", body=b"\xff\x00", query_string="a=1", headers={"X-Colour": "red", "X-Auth-Token": "t"}
    )
    request = json.loads(accepted(client, answer)["input"])["request"]
    headers = request.pop("headers")
    assert request == {
        "method": "PUT", "path": "/orders/7", "query": {"a": "1"}, "query_string": "a=1", "body": "/wA=",
        "isBase64Encoded": True,
    }  # fmt: skip
    assert headers["x-colour"] == "red"
    assert "x-auth-token" not in headers
    assert json.loads(accepted(client, hook.send("GET"))["input"])["request"]["path"] == "/"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("/v1/webhooks/ID/invoke/a%2Fb//c/", "/a%2Fb//c/"),
        ("/v1/webhooks/ID/invoke/%C3%A4?x=/invoke/y", "/%C3%A4"),
        ("/v1//webhooks/ID/%69nvoke/a%20b", "/a%20b"),
        ("http://localhost/v1/webhooks/ID/invoke/a", "/a"),
        ("/v1/webhooks/ID/invoke/\xe4", "/%E4"),
    ],
)
def test_the_path_is_passed_as_it_was_sent(client: Client, make_hook: MakeHook, raw: str, expected: str) -> None:
    hook = make_hook(subpaths=True, pass_request=True)
    answer = hook.send(path="/something", extras={"RAW_URI": raw.replace("ID", hook.id)})
    if "%69" not in raw:
        assert json.loads(accepted(client, answer)["input"])["request"]["path"] == expected


def test_a_disabled_webhook_takes_nothing_until_it_is_enabled(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    assert hook.send().status_code == 202
    hook.change(enabled=False)
    assert_error(hook.send(), 403, "disabled")
    hook.change(enabled=True)
    assert hook.send().status_code == 202
    assert hook.results() == ["accepted", "disabled", "accepted"]


def test_too_large_a_body_is_refused(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    client = client_with(max_input_size=1024, async_max_input_size=2048)
    hook = Hook(client, services, make_hook(pass_request=True).id)
    assert_error(hook.send(body=b"x" * 2049), 413, "2048")
    assert_error(hook.send(body=b"\xff" * 2000), 413, "input would be larger than 2048")
    assert hook.send(body=b"x" * 1000).status_code == 202
    assert hook.results() == ["too_large", "too_large", "accepted"]


@pytest.mark.parametrize(("size", "status"), [(100, 202), (100_000, 413)])
def test_a_body_is_read_once_also_if_the_webhook_was_stale(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch,
    size: int, status: int,
) -> None:  # fmt: skip
    hook = make_hook()
    there = Hook(client_with(max_input_size=2048, async_max_input_size=2048), services, hook.id)
    assert there.send().status_code == 202
    hook.change(description="changed")
    reads = []

    def read(req: Any, limit: int) -> bytes:
        reads.append(limit)
        return read_body(req, limit)

    monkeypatch.setattr(webhook_invocations, "read_body", read)
    assert there.send(body=b"x" * size).status_code == status
    assert len(reads) == 1


def test_malformed_bodies_are_refused_and_logged(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    assert_error(hook.send(body=b"\xff"), 400, "UTF-8")
    assert_error(hook.send(body=b"x", headers={"Content-Encoding": "gzip"}), 415, "compressed")
    assert hook.results() == ["refused", "refused"]


def test_a_sender_learns_nothing_of_a_queue_that_is_full(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = Hook(client_with(async_queue_limit=1), services, make_hook(rate_limit={"per_minute": 1, "burst": 2}).id)
    assert hook.send().status_code == 202
    answer = hook.send()
    assert_error(answer, 503, "The webhook can't take this delivery now. Send it again later.")
    assert int(answer.headers["retry-after"]) > 0
    [refused, _] = hook.deliveries()
    assert refused["result"] == "refused"
    assert "ASYNC_QUEUE_LIMIT" in refused["reason"]
    assert Hook(client_with(), services, hook.id).send().status_code == 202, "the refused one took no token"


def test_a_quota_that_is_reached_is_told_to_the_owner_alone(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    assert client.simulate_put("/v1/quotas", json={"executions": 0}).status_code == 200
    assert_error(hook.send(), 503, "can't take this delivery now")
    assert "Quota exceeded for executions" in hook.deliveries()[0]["reason"]


def test_a_rate_limit_takes_a_burst_and_names_the_time_of_the_next(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook(rate_limit={"per_minute": 2, "burst": 2})
    assert [hook.send().status_code for _ in range(2)] == [202, 202]
    answer = hook.send()
    assert_error(answer, 429, "rate limit")
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert hook.results() == ["accepted", "accepted", "rate_limited"]
    hook.change(rate_limit={"per_minute": None})
    assert hook.send().status_code == 202


def test_a_body_is_not_parsed_before_its_delivery_is_admitted(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(rate_limit={"per_minute": 1, "burst": 1})
    assert_error(hook.send(body=b"\xff", headers={"webhook-id": "d-1"}), 400, "UTF-8")

    def fail(*_: Any) -> str:
        raise AssertionError("the body was parsed")

    monkeypatch.setattr(webhook_invocations, "input_of", fail)
    assert hook.send(body=b"\xff").status_code == 429
    [limited, refused] = hook.deliveries()
    assert (limited["result"], refused["result"], refused["delivery_id"]) == ("rate_limited", "refused", "d-1")


def test_large_bodies_take_turns(make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    turn = OneAtATime.turn
    monkeypatch.setattr(OneAtATime, "turn", lambda self, user: (turns.append(user), turn(self, user))[1])
    hook = make_hook()
    assert hook.send(body=b"x" * 65_536).status_code == 202
    assert turns == []
    assert hook.send(body=b"x" * 65_537).status_code == 202
    assert turns == ["default"]


def test_each_webhook_has_a_bucket_of_its_own(client: Client, make_hook: MakeHook) -> None:
    one, other = (make_hook(rate_limit={"per_minute": 1, "burst": 1}) for _ in range(2))
    assert [hook.send().status_code for hook in (one, one, other)] == [202, 429, 202]


def test_the_log_keeps_the_last_hundred(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook(methods=["GET"])
    for number in range(103):
        hook.send(headers={"X-Request-Id": f"request-{number}"})
    log = hook.deliveries()
    assert len(log) == 100
    assert log[0]["reason"].endswith("(request-102)")
    assert log[-1]["reason"].endswith("(request-3)")


def test_a_process_accepts_so_many_large_deliveries_of_a_project_at_once(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_with(max_input_size=1024, max_held_input_size=0, async_max_input_size=8 * 1024)
    hook, committing, others = Hook(client, services, make_hook().id), Event(), []
    begun: list[str] = []
    function_id = client.simulate_get(f"/v1/webhooks/{hook.id}").json["function_id"]
    accept = execution_queue.accept

    def wait_and_accept(record: ExecutionRecord) -> None:
        begun.append(record.id)
        committing.wait()
        accept(record)

    monkeypatch.setattr(execution_queue, "accept", wait_and_accept)
    first = [gevent.spawn(hook.send, body=b"x" * 8000) for _ in range(4)]
    wait_until(lambda: len(begun) == len(first))
    for text, status in (("x" * 5000, 503), ("x" * 4000, 202)):
        body = {"function_id": function_id, "input": text, "sync": False}
        others += [(gevent.spawn(hook.send, body=text.encode()), 202 if status == 202 else 503)]
        others += [(gevent.spawn(client.simulate_post, "/v1/executions", json=body), 201 if status == 202 else 503)]
    wait_until(lambda: len(begun) == len(first) + 2)
    committing.set()
    gevent.joinall([*first, *(one for one, _ in others)], raise_error=True)
    assert {one.value.status_code for one in first} == {202}
    for one, status in others:
        assert one.value.status_code == status, one.value.text
        assert status != 503 or int(one.value.headers["retry-after"]) > 0
