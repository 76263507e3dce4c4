"""Repeated deliveries to webhooks: each delivery id has one execution, and look-ups do not delay other deliveries."""

from __future__ import annotations

import hashlib
import hmac
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gevent
import pytest
from falcon import testing
from gevent.event import Event

from qinling_falcon.invocation.cached_webhooks import CachedWebhook
from qinling_falcon.models import clock, database, idempotency
from qinling_falcon.models.internal_tables import IdempotencyKey
from qinling_falcon.resources import webhook_invocations
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeEngine
from tests.api.hooks import GITHUB, SECRET, Hook, end
from tests.pool.side import wait_until

MakeHook = Callable[..., Hook]
DELIVERY = "X-GitHub-Delivery"


@pytest.mark.parametrize("header", ["webhook-id", "X-GitHub-Delivery"])
def test_a_repeated_delivery_gets_the_first_execution(make_hook: MakeHook, header: str) -> None:
    hook = make_hook()
    first = hook.send(json={"a": 1}, headers={header: "d-1"})
    for _ in range(2):
        again = hook.send(json={"a": 1}, headers={header: "d-1"})
        assert (again.status_code, again.json, again.headers["location"]) == (
            202, first.json, first.headers["location"],
        )  # fmt: skip
        assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert hook.send(json={"a": 1}, headers={header: "d-2"}).json != first.json
    assert len(hook.executions()) == 2
    assert hook.results() == ["accepted", "duplicate", "duplicate", "accepted"]


def test_a_repeat_of_a_signed_delivery_may_have_another_body(make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB)
    first, again = (hook.send_signed(body, **{"X-GitHub-Delivery": "d-1"}) for body in (b"{}", b'{"attempt": 2}'))
    assert again.json == first.json
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("other", [{"body": b"{}"}, {"query_string": "a=1"}, {"path": "/x"}, {"method": "PUT"}])
def test_a_stranger_who_guesses_an_id_does_not_take_the_place_of_its_delivery(
    make_hook: MakeHook, other: dict[str, Any]
) -> None:
    hook = make_hook(methods=["POST", "PUT"], subpaths=True)
    guessed = hook.send(headers={"webhook-id": "d-1"}, **other)
    real = hook.send(headers={"webhook-id": "d-1"}, body=b'{"paid": true}')
    assert (guessed.status_code, real.status_code) == (202, 202)
    assert real.json != guessed.json
    assert [row["input"] for row in hook.executions()][-1] == '{"paid": true}'


@pytest.mark.parametrize("form", ["{}", '"{}"'])
def test_no_idempotency_key_is_the_id_of_a_delivery(client: Client, make_hook: MakeHook, form: str) -> None:
    hook = make_hook(signature=GITHUB)
    key = form.format(f"webhook·{hook.id}·d-1")
    body = {"function_id": client.simulate_get(f"/v1/webhooks/{hook.id}").json["function_id"], "sync": False}
    for raw in (key, key.encode().decode("latin-1")):
        answer = client.simulate_post("/v1/executions", json=body, extras={"HTTP_IDEMPOTENCY_KEY": raw})
        assert_error(answer, 400, "Idempotency-Key")
    answer = hook.send_signed(**{"X-GitHub-Delivery": "d-1"})
    assert "idempotent-replayed" not in answer.headers


def limit_executions(client: Client, hook: Hook) -> None:
    assert client.simulate_put("/v1/quotas", json={"executions": 0}).status_code == 200


def limit_rate(client: Client, hook: Hook) -> None:
    hook.change(rate_limit={"per_minute": 1, "burst": 1})
    assert hook.send().status_code == 202


@pytest.mark.parametrize("limit", [limit_executions, limit_rate])
def test_a_repeat_that_is_not_admitted_gets_the_first_execution(
    client: Client, make_hook: MakeHook, limit: Callable[[Client, Hook], None]
) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"})
    limit(client, hook)
    again = hook.send(headers={"webhook-id": "d-1"})
    assert (again.status_code, again.json) == (202, first.json)
    assert hook.results()[-1] == "duplicate"
    assert hook.send(headers={"webhook-id": "d-2"}).status_code in (429, 503)
    end(first.json["execution_id"], "failed")
    assert hook.send(headers={"webhook-id": "d-1"}).status_code in (429, 503), "a limit holds for what runs again, too"


def test_a_repeat_to_a_full_queue_gets_the_first_execution(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = Hook(client_with(async_queue_limit=1), services, make_hook().id)
    first = hook.send(headers={"webhook-id": "d-1"})
    again = hook.send(headers={"webhook-id": "d-1"})
    assert (first.status_code, again.status_code, again.json) == (202, 202, first.json)
    assert hook.send(headers={"webhook-id": "d-2"}).status_code == 503


def test_ids_belong_to_their_webhook(make_hook: MakeHook) -> None:
    one, other = make_hook(), make_hook()
    headers = {"webhook-id": "d-1"}
    assert one.send(headers=headers).json != other.send(headers=headers).json


def test_long_ids_are_told_apart(make_hook: MakeHook) -> None:
    hook = make_hook()
    ids = ["x" * 210, "x" * 211, "x" * 255, "x" * 254 + "y"]
    first = [hook.send(headers={"webhook-id": one}).json["execution_id"] for one in ids]
    assert len(set(first)) == 4
    assert [hook.send(headers={"webhook-id": one}).json["execution_id"] for one in ids] == first


@pytest.mark.parametrize("status", ["failed", "error", "dead"])
def test_a_repeat_queues_a_failed_execution_again(client: Client, make_hook: MakeHook, status: str) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"}).json["execution_id"]
    end(first, status)
    again = hook.send(headers={"webhook-id": "d-1"})
    assert (again.status_code, again.json["execution_id"]) == (202, first)
    shown = client.simulate_get(f"/v1/executions/{first}").json
    assert (shown["status"], shown["attempt"]) == ("running", 1)
    assert "repeated delivery" in shown["status_reason"]


@pytest.mark.parametrize("status", ["success", "cancelled"])
def test_a_repeat_leaves_others_as_they_are(client: Client, make_hook: MakeHook, status: str) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"}).json["execution_id"]
    end(first, status)
    assert hook.send(headers={"webhook-id": "d-1"}).json["execution_id"] == first
    assert client.simulate_get(f"/v1/executions/{first}").json["status"] == status


def test_of_repeats_at_once_one_queues_it_again(
    client: Client, make_hook: MakeHook, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"}).json["execution_id"]
    end(first, "failed")
    pushed: list[str] = []
    push = services.pool.ready.push
    monkeypatch.setattr(services.pool.ready, "push", lambda *args: (pushed.append(args[2]), push(*args)))
    answers = gevent.joinall([gevent.spawn(hook.send, headers={"webhook-id": "d-1"}) for _ in range(8)])
    assert {one.value.status_code for one in answers} == {202}
    assert {one.value.json["execution_id"] for one in answers} == {first}
    assert pushed == [first]


def test_of_first_deliveries_at_once_one_is_accepted(make_hook: MakeHook) -> None:
    hook = make_hook()
    answers = gevent.joinall([gevent.spawn(hook.send, headers={"webhook-id": "d-1"}) for _ in range(8)])
    assert {one.value.status_code for one in answers} == {202}
    assert len({one.value.json["execution_id"] for one in answers}) == 1
    assert len(hook.executions()) == 1
    assert sorted(hook.results()) == ["accepted"] + ["duplicate"] * 7


def test_a_repeat_of_a_deleted_execution_is_taken_and_runs_nothing(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    first = hook.send(headers={"webhook-id": "d-1"}).json["execution_id"]
    end(first, "failed")
    assert client.simulate_delete(f"/v1/executions/{first}").status_code == 204
    assert hook.send(headers={"webhook-id": "d-1"}).json["execution_id"] == first
    assert hook.executions() == []


@pytest.fixture
def slow_lookups(monkeypatch: pytest.MonkeyPatch) -> SlowLookups:
    """A database that finds keys only when it is told to."""
    slow = SlowLookups()
    monkeypatch.setattr(idempotency, "find", slow.find)
    return slow


class SlowLookups:
    """Look-ups of keys that take as long as the test wants.

    Attributes:
        asked: how many have begun.
        go_on: lets all go on.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = Event()
        self._find = idempotency.find

    def find(self, *about: Any) -> Any:
        self.asked += 1
        self.go_on.wait()
        return self._find(*about)


def test_repeats_that_are_looked_up_keep_no_delivery_from_being_accepted(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, slow_lookups: SlowLookups
) -> None:
    client = client_with(web_connections=16)  # one project may have six executions accepted at once
    limited = Hook(client, services, make_hook(signature=GITHUB, rate_limit={"per_minute": 1, "burst": 1}).id)
    assert limited.send_signed().status_code == 202
    repeats = [gevent.spawn(limited.send_signed, **{DELIVERY: f"d-{number}"}) for number in range(8)]
    wait_until(lambda: slow_lookups.asked == 2)
    assert Hook(client, services, make_hook().id).send().status_code == 202
    slow_lookups.go_on.set()
    gevent.joinall(repeats, raise_error=True)
    assert {one.value.status_code for one in repeats} == {429}


def test_few_repeats_wait_to_be_looked_up(
    services: Services, make_hook: MakeHook, slow_lookups: SlowLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that wait hold connections, without a place."""
    monkeypatch.setattr(services.webhook_calls._ids._lookups, "_wait_s", 600)
    hook = make_hook(signature=GITHUB, rate_limit={"per_minute": 1, "burst": 1})
    assert hook.send_signed().status_code == 202
    repeats = [gevent.spawn(hook.send_signed, **{DELIVERY: f"d-{number}"}) for number in range(2 + 16 + 5)]
    wait_until(lambda: sum(one.dead for one in repeats) == 5)
    slow_lookups.go_on.set()
    gevent.joinall(repeats, raise_error=True)
    assert {one.value.status_code for one in repeats} == {429}


def test_the_input_of_a_refused_delivery_is_not_held_while_it_is_looked_up(
    client: Client, make_hook: MakeHook, slow_lookups: SlowLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook()
    assert client.simulate_put("/v1/quotas", json={"executions": 0}).status_code == 200
    made: list[weakref.ref[Text]] = []

    def input_of(*about: Any) -> str:
        text = Text("{}")
        made.append(weakref.ref(text))
        return text

    monkeypatch.setattr(webhook_invocations, "input_of", input_of)
    sending = gevent.spawn(hook.send, headers={"webhook-id": "d-1"})
    wait_until(lambda: slow_lookups.asked == 1)
    assert [text() for text in made] == [None]
    slow_lookups.go_on.set()
    gevent.joinall([sending], raise_error=True)
    assert sending.value.status_code == 503


def test_unsigned_repeats_do_not_wait_to_be_looked_up(
    services: Services, make_hook: MakeHook, slow_lookups: SlowLookups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.webhook_calls._ids._lookups, "_wait_s", 600)
    hook = make_hook(rate_limit={"per_minute": 1, "burst": 1})
    assert hook.send().status_code == 202
    repeats = [gevent.spawn(hook.send, headers={"webhook-id": f"d-{number}"}) for number in range(2)]
    wait_until(lambda: slow_lookups.asked == 2)
    assert hook.send(headers={"webhook-id": "d-2"}).status_code == 429
    assert slow_lookups.asked == 2
    slow_lookups.go_on.set()
    gevent.joinall(repeats, raise_error=True)


def test_the_inputs_of_synchronous_deliveries_count_while_their_ids_are_looked_up(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, slow_lookups: SlowLookups
) -> None:
    client = client_with(max_input_size=8 * 1024, max_held_input_size=0, async_max_input_size=1024)
    hook = Hook(client, services, make_hook(sync=True).id)
    large = b"x" * 8000
    first = [gevent.spawn(hook.send, body=large, headers={"webhook-id": f"d-{number}"}) for number in range(4)]
    wait_until(lambda: slow_lookups.asked == 4)
    assert_error(hook.send(body=large, headers={"webhook-id": "d-4"}), 503, "Send it again later")
    slow_lookups.go_on.set()
    gevent.joinall(first, raise_error=True)
    assert {one.value.status_code for one in first} == {200}


@pytest.mark.parametrize("sync", [False, True])
def test_an_id_is_known_for_as_long_as_its_timestamp_is_accepted(
    services: Services, client_with: Callable[..., Client], make_hook: MakeHook, sync: bool
) -> None:
    hook_id = make_hook(sync=sync, signature={"scheme": "stripe", "secrets": [SECRET], "tolerance_s": 600}).id
    hook = Hook(client_with(idempotency_ttl_s=60), services, hook_id)
    assert send_stripe(hook, b'{"id": "evt_1"}').status_code in (200, 202)
    with database.reading():
        [expires_at] = [clock.from_micros(row.expires_at) for row in IdempotencyKey.select()]
    left = expires_at - clock.now()
    assert timedelta(seconds=1200 - 30) < left <= timedelta(seconds=1200)


def test_an_event_of_stripe_without_an_id_runs_once_while_its_signature_is_valid(make_hook: MakeHook) -> None:
    hook = make_hook(signature={"scheme": "stripe", "secrets": [SECRET]})
    now = int(time.time())
    answers = [send_stripe(hook, b"{}", at).json for at in (now, now, now - 10)]
    assert answers[0] == answers[1] != answers[2]


def send_stripe(hook: Hook, body: bytes, at: int | None = None) -> testing.Result:
    """A delivery as Stripe signs it."""
    timestamp = int(time.time()) if at is None else at
    digest = hmac.digest(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hex()
    return hook.send(body=body, headers={"Stripe-Signature": f"t={timestamp},v1={digest}"})


class Text(str):
    """A text that can be watched."""


class Body(bytes):
    """A body that says when it leaves the memory."""

    in_memory = 0

    def __new__(cls, text: bytes) -> Body:
        cls.in_memory += 1
        return super().__new__(cls, text)

    def __del__(self) -> None:
        type(self).in_memory -= 1


class FakeDelivery:
    """A fake for a request, whose body can be watched."""

    method, has_subpath, request_id, callback_depth = "POST", False, "r-1", 0

    def __init__(self) -> None:
        self.received_at = clock.now()
        self._body: Body | None = Body(b'{"a": 1}')

    def set_webhook(self, webhook: CachedWebhook) -> None:
        pass

    def header(self, name: str) -> str | None:
        return None

    def body(self, limit: int) -> bytes:
        assert self._body is not None
        return self._body

    def drop_body(self) -> None:
        self._body = None

    def digest(self, body: bytes) -> str:
        raise AssertionError

    def function_input(self, body: bytes) -> str | None:
        return body.decode()


def test_a_body_is_not_held_while_its_function_runs(
    services: Services, make_hook: MakeHook, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    invoke = engine.invoke

    def watch(*about: Any) -> Any:
        held.append(Body.in_memory)
        return invoke(*about)

    monkeypatch.setattr(engine, "invoke", watch)
    services.webhook_calls.deliver(make_hook(sync=True).id, FakeDelivery())
    assert held == [0]
