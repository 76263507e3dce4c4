"""`/v1/webhooks`: as records, and as URLs that run functions."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import pytest
import requests

from tests.contract.service import NOBODY, REFERENCE_CLIENT, User, error, located, no_body
from tests.contract.shapes import DELIVERY, WEBHOOK, check, check_all
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("contract")


@pytest.fixture(scope="module")
def target(user: User) -> str:
    """A function with the versions 1 and 2."""
    function_id = user.function()
    assert [user.version(function_id) for _ in range(2)] == [1, 2]
    return function_id


@pytest.fixture(scope="module")
def alias(user: User, target: str) -> str:
    return user.alias(target, function_version=2)


def named(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What a webhook runs."""
    return row["function_id"], row["function_version"], row["function_alias"]


def test_POST_v1_webhooks_answers_201(user: User, target: str) -> None:
    given = {"function_id": target, "description": "of a test", "function_version": 2}
    answer = user.post("/v1/webhooks", **given)
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/webhooks/{made['id']}")
    check(WEBHOOK, made)
    assert {field: made[field] for field in given} == given
    assert made["webhook_url"] == f"{user.url}/v1/webhooks/{made['id']}/invoke"
    assert (made["function_alias"], made["updated_at"]) == (None, None)


def test_a_webhook_of_an_alias_shows_neither_function_nor_version(user: User, target: str, alias: str) -> None:
    made = user.made("/v1/webhooks", function_alias=alias, description="of a test")
    check(WEBHOOK, made)
    assert (named(made), made["description"]) == ((None, None, alias), "of a test")
    both = user.made("/v1/webhooks", function_alias=alias, function_id=target, function_version=1)
    assert named(both) == (None, None, alias)


def test_what_is_left_out_of_a_webhook_has_its_default(user: User, target: str) -> None:
    for nulls in ({}, {"function_version": None, "function_alias": None, "description": None}):
        made = user.made("/v1/webhooks", function_id=target, **nulls)
        assert (named(made), made["description"]) == ((target, 0, None), None)


def test_the_url_of_a_webhook_is_made_at_each_answer(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target)
    headers = {"Host": "functions.example"}
    shown = user.get(f"/v1/webhooks/{made['id']}", headers=headers).json()
    assert shown["webhook_url"] == f"http://functions.example/v1/webhooks/{made['id']}/invoke"
    (row,) = user.get("/v1/webhooks", params={"id": made["id"]}, headers=headers).json()
    assert row == shown


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"function_id": None}, 400, "function_id"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_version": "one"}, 400, "function_version"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"function_alias": ""}, 400, "function_alias"),
        ({"description": "x" * 256}, 400, "description"),
        ({"version_number": 1}, 400, "version_number"),  # the reference's table, against its own examples
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], status: int, field: str
) -> None:
    error(user.post("/v1/webhooks", **{"function_id": target} | fields), status, field=field)


def test_GET_v1_webhooks_answers_200(user: User) -> None:
    function_id = user.function()
    made = [user.made("/v1/webhooks", function_id=function_id, description=text) for text in ("one", "two")]
    answer = user.get("/v1/webhooks", params={"function_id": function_id})
    assert answer.status_code == 200
    check_all(WEBHOOK, answer.json())
    assert answer.json() == made
    for query in ({"all_projects": "true"}, {"project_id": "default"}):
        assert user.get("/v1/webhooks", params={"function_id": function_id} | query).json() == made


def test_GET_v1_webhooks_id_answers_200(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target, function_version=1)
    answer = user.get(f"/v1/webhooks/{made['id']}")
    assert answer.status_code == 200
    check(WEBHOOK, answer.json())
    assert answer.json() == made
    error(user.get(f"/v1/webhooks/{NOBODY}"), 404, NOBODY)


def test_PUT_v1_webhooks_id_answers_202(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target)
    path = f"/v1/webhooks/{made['id']}"
    given = {"function_id": target, "description": "changed", "function_version": 2}
    answer = user.put(path, **given)
    assert answer.status_code == 202
    located(user, answer, path)
    updated = answer.json()
    check(WEBHOOK, updated)
    assert updated == made | given | {"updated_at": updated["updated_at"]}
    assert updated["updated_at"] is not None
    assert user.get(path).json() == updated
    error(user.put(f"/v1/webhooks/{NOBODY}", description="d"), 404, NOBODY)


def test_an_alias_and_a_function_take_each_others_place(user: User, target: str, alias: str) -> None:
    path = f"/v1/webhooks/{user.made('/v1/webhooks', function_id=target, function_version=1)['id']}"
    other = user.function()
    for given, expected in (
        ({"function_version": 2}, (target, 2, None)),
        ({"function_id": other}, (other, 0, None)),
        ({"function_alias": alias, "description": "of a test"}, (None, None, alias)),
        ({"description": "changed"}, (None, None, alias)),
        ({"function_id": target}, (target, 0, None)),
        ({"function_alias": alias, "function_id": target, "function_version": 1}, (None, None, alias)),
        ({"function_id": target, "function_version": 1}, (target, 1, None)),
    ):
        answer = user.put(path, **given)
        assert (answer.status_code, named(answer.json())) == (202, expected), given
        assert named(user.get(path).json()) == expected


def test_a_null_clears_nothing(user: User, target: str, alias: str) -> None:
    nulls = {"function_id": None, "function_version": None, "function_alias": None, "description": None}
    for given in ({"function_id": target, "function_version": 1}, {"function_alias": alias}):
        made = user.made("/v1/webhooks", description="d", **given)
        path = f"/v1/webhooks/{made['id']}"
        for answer in (user.put(path, **nulls), user.put(path), user.send("PUT", path)):
            assert (answer.status_code, answer.json()) == (202, made)


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"webhook_url": "http://example"}, 400, "webhook_url"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], status: int, field: str
) -> None:
    made = user.made("/v1/webhooks", function_id=target, function_version=1)
    error(user.put(f"/v1/webhooks/{made['id']}", **fields), status, field=field)
    assert user.get(f"/v1/webhooks/{made['id']}").json() == made


def test_a_version_alone_is_no_target_of_a_webhook_that_names_an_alias(user: User, alias: str) -> None:
    made = user.made("/v1/webhooks", function_alias=alias)
    error(user.put(f"/v1/webhooks/{made['id']}", function_version=1), 400, field="function_id")


def test_DELETE_v1_webhooks_id_answers_204(user: User, target: str) -> None:
    path = f"/v1/webhooks/{user.made('/v1/webhooks', function_id=target)['id']}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.put(path, description="d"), user.delete(path)):
        error(answer, 404, path.rpartition("/")[2])


def invoke(user: User, webhook: dict[str, Any], *, path: str = "", **request: Any) -> requests.Response:
    return requests.post(webhook["webhook_url"] + path, timeout=60, **request)


def output_of(user: User, execution_id: str) -> Any:
    """What the function of an execution returned."""
    ended = user.service.ended(execution_id)
    assert ended["status"] == "success", ended
    return json.loads(ended["result"])["output"]


def test_POST_v1_webhooks_id_invoke_answers_202(user: User, target: str) -> None:
    webhook = user.made("/v1/webhooks", function_id=target, function_version=1)
    answer = invoke(user, webhook, json={"name": "Ada"})
    assert (answer.status_code, list(answer.json())) == (202, ["execution_id"])
    located(user, answer, f"/v1/executions/{answer.json()['execution_id']}")
    assert output_of(user, answer.json()["execution_id"]) == "Hello, Ada"
    execution = user.get(f"/v1/executions/{answer.json()['execution_id']}").json()
    expected = {
        "function_id": target, "function_version": 1, "sync": False, "source": "webhook", "webhook_id": webhook["id"],
        "description": f"Created by Webhook {webhook['id']}",
    }  # fmt: skip
    assert {name: execution[name] for name in expected} == expected
    error(requests.post(f"{user.url}/v1/webhooks/{NOBODY}/invoke", timeout=60), 404, NOBODY)


def test_POST_v1_webhooks_id_invoke_path_answers_202(user: User) -> None:
    source = "def main(request):\n    return [request['method'], request['path'], request['query']]\n"
    webhook = user.made(
        "/v1/webhooks", function_id=user.function(source), subpaths=True, pass_request=True, methods=["*"]
    )
    answer = invoke(user, webhook, path="/orders/7%2F8/?colour=red")
    assert answer.status_code == 202
    assert output_of(user, answer.json()["execution_id"]) == ["POST", "/orders/7%2F8/", {"colour": "red"}]


def test_GET_v1_webhooks_id_deliveries_answers_200(user: User, target: str) -> None:
    webhook = user.made("/v1/webhooks", function_id=target, rate_limit={"per_minute": 1, "burst": 1})
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    assert user.get(path).json() == []
    execution_id = invoke(user, webhook, headers={"webhook-id": "d-1"}).json()["execution_id"]
    error(invoke(user, webhook), 429)
    wait_until("both deliveries are in the log", lambda: len(user.get(path).json()) == 2)
    answer = user.get(path)
    assert answer.status_code == 200
    check_all(DELIVERY, answer.json())
    shown = [(row["result"], row["delivery_id"], row["execution_id"]) for row in answer.json()]
    assert shown == [("rate_limited", None, None), ("accepted", "d-1", execution_id)]
    assert user.get(path, headers=REFERENCE_CLIENT).json() == {"deliveries": answer.json()}
    error(user.get(f"/v1/webhooks/{NOBODY}/deliveries"), 404, NOBODY)


def test_the_input_of_a_delivery_is_that_of_the_reference(user: User) -> None:
    echo = "def main(*arguments, context=None, **named):\n    return [list(arguments), named]\n"
    webhook = user.made("/v1/webhooks", function_id=user.function(echo))
    form = {"data": {"a": "1", "b": ["2", "3"]}}
    for request, expected in (
        ({"json": {"a": 1, "b": None}, "params": {"a": "2", "c": "3"}}, [[], {"a": 1, "b": None, "c": "3"}]),
        (form, [[], {"a": "1", "b": ["2", "3"]}]),
        ({"data": b"[1, 2]"}, [["[1, 2]"], {}]),
        ({"data": "text, ä".encode()}, [["text, ä"], {}]),
        ({}, [[], {}]),
    ):
        answer = invoke(user, webhook, **request)
        assert answer.status_code == 202, answer.text
        assert output_of(user, answer.json()["execution_id"]) == expected


def test_a_synchronous_webhook_answers_what_the_function_returns(user: User) -> None:
    source = (
        "def main(kind='plain', **rest):\n"
        "    if kind == 'error': raise ValueError('a secret')\n"
        "    if kind == 'plain': return {'a': 1}\n"
        "    headers = {'Content-Type': 'image/gif', 'Set-Cookie': 'a=b'}\n"
        "    return {'statusCode': 201, 'headers': headers, 'body': 'R0lG', 'isBase64Encoded': True}\n"
    )
    webhook = user.made("/v1/webhooks", function_id=user.function(source), sync=True, methods=["GET"])
    plain, made, failed = (requests.get(webhook["webhook_url"], params=params, timeout=60) for params in (
        {}, {"kind": "made"}, {"kind": "error"},
    ))  # fmt: skip
    assert (plain.status_code, plain.json(), plain.headers["Content-Type"]) == (200, {"a": 1}, "application/json")
    assert (made.status_code, made.content, made.headers["Content-Type"]) == (201, b"GIF", "image/gif")
    assert "Set-Cookie" not in made.headers
    assert made.headers["Content-Security-Policy"] == "sandbox"
    error(failed, 502)
    assert "secret" not in failed.text
    for answer in (plain, made, failed):
        execution = user.get(f"/v1/executions/{answer.headers['X-Execution-Id']}").json()
        assert (execution["sync"], execution["source"]) == (True, "webhook")


def test_a_delivery_may_be_chunked(user: User, target: str) -> None:
    webhook = user.made("/v1/webhooks", function_id=target)
    answer = invoke(user, webhook, data=iter([b'{"name": ', b'"Ada"}']))
    assert output_of(user, answer.json()["execution_id"]) == "Hello, Ada"
    error(invoke(user, webhook, data=iter([b"x" * 600_000] * 3)), 413)


def test_a_webhook_that_was_changed_or_deleted_acts_so_in_every_process(user: User, target: str) -> None:
    webhook = user.made("/v1/webhooks", function_id=target)
    path = f"/v1/webhooks/{webhook['id']}"

    def answers() -> set[int]:
        """The statuses of requests on connections of their own, which both web processes get."""
        return {invoke(user, webhook).status_code for _ in range(12)}

    assert answers() == {202}
    for fields, expected in (({"enabled": False}, 403), ({"enabled": True}, 202), ({"methods": ["PUT"]}, 405)):
        assert user.put(path, **fields).status_code == 202
        assert answers() == {expected}
    assert user.delete(path).status_code == 204
    assert answers() == {404}


def test_signed_deliveries_are_verified_and_repeated_ones_run_once(user: User, target: str) -> None:
    secret = "whsec_" + base64.b64encode(b"thirty-two bytes of a test's key").decode()
    webhook = user.made("/v1/webhooks", function_id=target, signature={"scheme": "standard", "secrets": [secret]})
    assert webhook["signature"] == {"scheme": "standard", "tolerance_s": 300, "secrets": 1}
    body, sent_at = b'{"name": "Ada"}', str(int(time.time()))
    digest = hmac.digest(base64.b64decode(secret[6:]), b"msg_1." + sent_at.encode() + b"." + body, "sha256")
    signed = {
        "webhook-id": "msg_1", "webhook-timestamp": sent_at,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }  # fmt: skip
    first = invoke(user, webhook, data=body, headers=signed)
    assert output_of(user, first.json()["execution_id"]) == "Hello, Ada"
    again = invoke(user, webhook, data=body, headers=signed)
    assert (again.status_code, again.json(), again.headers["Idempotent-Replayed"]) == (202, first.json(), "true")
    for changed in ({"data": body + b" "}, {"headers": signed | {"webhook-id": "msg_2"}}, {"headers": {}}):
        error(invoke(user, webhook, **{"data": body, "headers": signed} | changed), 401)
    assert len(user.get("/v1/executions", params={"webhook_id": webhook["id"]}).json()) == 1


def test_a_repeat_runs_a_failed_execution_again(user: User) -> None:
    source = (
        "import os\n"
        "def main(**named):\n"
        "    if os.path.exists('/tmp/was_here'): return 'second'\n"
        "    open('/tmp/was_here', 'w').close()\n"
        "    raise ValueError('first')\n"
    )
    webhook = user.made("/v1/webhooks", function_id=user.function(source))
    headers = {"webhook-id": "msg_1"}
    execution_id = invoke(user, webhook, headers=headers).json()["execution_id"]
    assert user.service.ended(execution_id)["status"] == "failed"
    assert invoke(user, webhook, headers=headers).json()["execution_id"] == execution_id
    assert output_of(user, execution_id) == "second"
    assert user.get(f"/v1/executions/{execution_id}").json()["attempt"] == 2
