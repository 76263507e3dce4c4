"""What a web process remembers of webhooks: changes act at once in every process, and strangers cost few look-ups."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.api import create_app
from qinling_falcon.invocation import cached_webhooks
from qinling_falcon.invocation.webhook_calls import WebhookCalls
from qinling_falcon.models import database
from qinling_falcon.models import webhook as webhook_rows
from qinling_falcon.models.tables import Webhook
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.hooks import GITHUB, SECRET, Hook
from tests.pool.side import wait_until

SHOP = "https://shop.example"

MakeHook = Callable[..., Hook]


def other_process(services: Services, pool: Pool) -> WebhookCalls:
    """What takes deliveries in another web process, with its own cache."""
    return WebhookCalls(services.engine, services.acceptance, services.idempotent_calls, pool, services.settings)


@pytest.mark.parametrize(
    ("before", "change", "request_", "statuses"),
    [
        ({}, {"enabled": False}, {}, (202, 403)),
        ({"enabled": False}, {"enabled": True}, {}, (403, 202)),
        ({}, {"methods": ["GET"]}, {}, (202, 405)),
        ({"methods": ["GET"]}, {"methods": ["POST"]}, {}, (405, 202)),
        ({"subpaths": False}, {"subpaths": True}, {"path": "/x"}, (404, 202)),
        ({}, {"signature": GITHUB}, {}, (202, 401)),
        ({"signature": GITHUB}, {"signature": {"scheme": "none"}}, {}, (401, 202)),
        ({}, {"sync": True}, {}, (202, 200)),
        ({"sync": True}, {"sync": False}, {}, (200, 202)),
    ],
)
def test_a_change_acts_at_once_in_every_process(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, before: Any, change: Any,
    request_: Any, statuses: tuple[int, int],
) -> None:  # fmt: skip
    hook = make_hook(**before)
    here, there = hook, Hook(client_with(), services, hook.id)
    assert [one.send(**request_).status_code for one in (here, there)] == [statuses[0]] * 2
    hook.change(**change)
    assert [one.send(**request_).status_code for one in (there, here)] == [statuses[1]] * 2


@pytest.mark.parametrize(("sync", "statuses"), [(False, (413, 200)), (True, (200, 413))])
def test_the_largest_size_changes_at_once_in_every_process(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, sync: bool, statuses: tuple[int, int]
) -> None:
    hook = make_hook(sync=sync, rate_limit={"per_minute": 1, "burst": 1})
    there = Hook(client_with(max_input_size=2048, async_max_input_size=1024), services, hook.id)
    before = there.send(body=b"x" * 2000).status_code
    hook.change(sync=not sync)
    assert (before, there.send(body=b"x" * 2000).status_code) == statuses


def test_a_rate_limit_acts_at_once_in_every_process(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = make_hook()
    there = Hook(client_with(), services, hook.id)
    assert [one.send().status_code for one in (hook, there)] == [202, 202]
    hook.change(rate_limit={"per_minute": 1, "burst": 1})
    assert [one.send().status_code for one in (there, hook, there)] == [202, 429, 429]
    hook.change(rate_limit={"per_minute": None})
    assert [one.send().status_code for one in (there, hook)] == [202, 202]


def test_a_rotated_secret_acts_at_once_in_every_process(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = make_hook(signature=GITHUB)
    there = Hook(client_with(), services, hook.id)
    assert [one.send_signed().status_code for one in (hook, there)] == [202, 202]
    hook.change(signature={"scheme": "github", "secrets": ["the new secret", SECRET]})
    assert [there.send_signed(secret=one).status_code for one in ("the new secret", SECRET)] == [202, 202]
    hook.change(signature={"scheme": "github", "secrets": ["the new secret"]})
    assert [there.send_signed(secret=one).status_code for one in (SECRET, "the new secret")] == [401, 202]


def test_a_deleted_webhook_is_unknown_at_once_in_every_process_and_its_log_is_gone(
    client: Client, client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = make_hook()
    there = Hook(client_with(), services, hook.id)
    assert there.send().status_code == 202
    assert len(hook.deliveries()) == 1
    assert client.simulate_delete(f"/v1/webhooks/{hook.id}").status_code == 204
    assert_error(there.send(), 404, hook.id)
    assert services.pool.deliveries.logged(hook.id) == []


def test_another_function_is_run_at_once(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook()
    assert hook.send().status_code == 202
    other = str(client.function()["id"])
    hook.change(function_id=other)
    assert hook.send().status_code == 202
    assert hook.executions()[-1]["function_id"] == other


def test_a_target_that_is_gone_because_the_webhook_was_changed_refuses_nothing(
    client: Client, client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    hook = make_hook(cors=[SHOP])
    first = hook.send(headers={"webhook-id": "d-1"})
    other = Hook(client_with(), services, hook.id)
    preflight = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    assert other.send("OPTIONS", headers=preflight).status_code == 204, "the webhook is cached, its function is not"
    old = client.simulate_get(f"/v1/webhooks/{hook.id}").json["function_id"]
    new = client.function()["id"]
    hook.change(function_id=new, enabled=False)
    for alias in client.simulate_get("/v1/aliases").json:
        client.simulate_delete(f"/v1/aliases/{alias['name']}")
    assert client.simulate_delete(f"/v1/functions/{old}").status_code == 204
    assert other.send(headers={"webhook-id": "d-1"}).status_code == 403
    hook.change(enabled=True)
    assert other.send(headers={"webhook-id": "d-1"}).json == first.json
    assert other.send().status_code == 202


def test_a_known_webhook_needs_no_read_of_the_database(
    client: Client, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(rate_limit={"per_minute": 100}, signature=GITHUB)
    assert hook.send_signed(**{"X-GitHub-Delivery": "first"}).status_code == 202

    def fail() -> None:
        raise AssertionError("the database was read")

    monkeypatch.setattr(database.engine(), "open_reader", fail)
    assert hook.send_signed(**{"X-GitHub-Delivery": "second"}).status_code == 202


def test_a_change_that_no_process_has_announced_acts_within_a_minute(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored database, or a process of an older release."""
    assert cached_webhooks.CACHED_S <= 60
    monkeypatch.setattr(cached_webhooks, "CACHED_S", 0.2)
    hook = make_hook()
    assert hook.send().status_code == 202
    database.transact(lambda: Webhook.update(enabled=False).where(Webhook.id == hook.id).execute())
    wait_until(lambda: hook.send().status_code == 403)


def test_few_unknown_ids_are_looked_up_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    exists = webhook_rows.exists

    def watch(webhook_id: str) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gevent.sleep(0.001)
        running -= 1
        return exists(webhook_id)

    monkeypatch.setattr(webhook_rows, "exists", watch)
    unknown = [f"00000000-0000-4000-8000-{number:012}" for number in range(10)]
    answers = [gevent.spawn(client.simulate_post, f"/v1/webhooks/{one}/invoke") for one in unknown]
    gevent.joinall(answers, raise_error=True)
    assert {one.value.status_code for one in answers} == {404}
    assert most == 2


class HeldReads:
    """Reads of webhooks that have begun and end when they may. Each has read the database before it is held.

    Args:
        monkeypatch: replaces `function` of `models.webhook`.
        function: the name of the function that reads.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str = "read_for_call"):
        self.ids: list[str] = []
        self.may_end = Event()
        read = getattr(webhook_rows, function)

        def read_and_wait(webhook_id: str) -> Any:
            found = read(webhook_id)
            self.ids.append(webhook_id)
            assert self.may_end.wait(10)
            return found

        monkeypatch.setattr(webhook_rows, function, read_and_wait)


def is_waiting(greenlet: gevent.Greenlet) -> bool:
    """Whether a delivery has begun to wait for a look-up."""
    return any(frame.f_code.co_name == "_look_up" for frame in frames_of(greenlet))


def frames_of(greenlet: gevent.Greenlet) -> Iterator[FrameType]:
    frame = greenlet.gr_frame
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_strangers_who_invent_ids_do_not_delay_a_known_webhook(
    client: Client, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook()
    assert hook.send().status_code == 202
    hook.change(description="It must be read again.")
    held = HeldReads(monkeypatch, "exists")
    exists = webhook_rows.exists
    monkeypatch.setattr(webhook_rows, "exists", lambda one: one == hook.id or exists(one))
    unknown = [f"00000000-0000-4000-8000-{number:012}" for number in range(3)]
    strangers = [gevent.spawn(client.simulate_post, f"/v1/webhooks/{one}/invoke") for one in unknown]
    wait_until(lambda: len(held.ids) == 2)
    assert hook.send().status_code == 202
    held.may_end.set()
    gevent.joinall(strangers, raise_error=True)


def test_concurrent_deliveries_share_one_read(make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch) -> None:
    hook, held = make_hook(), HeldReads(monkeypatch)
    sending = [gevent.spawn(hook.send) for _ in range(10)]
    wait_until(lambda: all(map(is_waiting, sending)))
    held.may_end.set()
    gevent.joinall(sending, raise_error=True)
    assert {one.value.status_code for one in sending} == {202}
    assert held.ids == [hook.id]


def test_while_a_killed_change_is_marked_concurrent_deliveries_share_reads(
    services: Services, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook()
    assert hook.send().status_code == 202
    with services.pool.changing(webhook_rows.cache_key(hook.id)):
        held = HeldReads(monkeypatch)
        sending = [gevent.spawn(hook.send) for _ in range(10)]
        wait_until(lambda: all(map(is_waiting, sending)))
        held.may_end.set()
        gevent.joinall(sending, raise_error=True)
        assert {one.value.status_code for one in sending} == {202}
        assert held.ids == [hook.id] * 2, "a read that began before a delivery came is not used for it"
        assert hook.send().status_code == 202
        assert held.ids == [hook.id] * 3


@pytest.mark.parametrize(("enabled", "status"), [(False, 403), (True, 202)])
def test_a_shared_read_that_began_before_a_change_is_not_used(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch, enabled: bool, status: int
) -> None:
    hook = make_hook(enabled=not enabled)
    held = HeldReads(monkeypatch)
    before = gevent.spawn(hook.send)
    wait_until(lambda: held.ids == [hook.id])
    hook.change(enabled=enabled)
    after = gevent.spawn(hook.send)
    wait_until(lambda: is_waiting(after))
    held.may_end.set()
    gevent.joinall([before, after], raise_error=True)
    assert [one.value.status_code for one in (before, after)] == [status] * 2


def test_a_preflight_does_not_use_a_shared_read_that_began_before_a_change(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = make_hook(cors=["https://old.example"])
    held = HeldReads(monkeypatch)

    def preflight() -> Any:
        headers = {"Origin": "https://new.example", "Access-Control-Request-Method": "POST"}
        return hook.send("OPTIONS", headers=headers).headers.get("access-control-allow-origin")

    before = gevent.spawn(preflight)
    wait_until(lambda: held.ids == [hook.id])
    hook.change(cors=["https://new.example"])
    after = gevent.spawn(preflight)
    wait_until(lambda: is_waiting(after))
    held.may_end.set()
    gevent.joinall([before, after], raise_error=True)
    assert after.value == "https://new.example"


def test_a_webhook_made_during_a_look_up_of_its_id_is_found(
    client: Client, make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted row that an operator inserts again, for example."""
    hook = make_hook()
    with database.reading():
        row = Webhook.get_by_id(hook.id)
    database.transact(lambda: Webhook.delete().where(Webhook.id == hook.id).execute())
    held = HeldReads(monkeypatch, "exists")
    before = gevent.spawn(hook.send)
    wait_until(lambda: held.ids == [hook.id])
    database.transact(lambda: row.save(force_insert=True))
    after = gevent.spawn(hook.send)
    wait_until(lambda: is_waiting(after))
    held.may_end.set()
    gevent.joinall([before, after], raise_error=True)
    assert [one.value.status_code for one in (before, after)] == [404, 202]


def test_a_webhook_that_is_in_use_is_read_anew_by_one_greenlet_while_deliveries_go_on(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_webhooks, "REFRESH_AFTER_S", 0.0)
    hook = make_hook()
    assert hook.send().status_code == 202
    held = HeldReads(monkeypatch)
    assert [hook.send().status_code for _ in range(3)] == [202] * 3
    wait_until(lambda: held.ids == [hook.id])
    database.transact(lambda: Webhook.update(enabled=False).where(Webhook.id == hook.id).execute())
    held.may_end.set()
    wait_until(lambda: hook.send().status_code == 403)


def test_a_late_delivery_does_not_forget_the_webhook_that_was_read_anew(
    services: Services, make_hook: MakeHook
) -> None:
    hook, webhooks = make_hook(), cached_webhooks.CachedWebhooks(services.pool)
    stale = webhooks.get(hook.id)
    webhooks.forget(stale)
    new = webhooks.get(hook.id)
    webhooks.forget(stale)
    assert webhooks.get(hook.id) is new


def test_while_redis_is_away_deliveries_are_refused(
    services: Services, make_hook: MakeHook, lonely_pool: Pool, client: Client
) -> None:
    hook = make_hook()
    calls = other_process(services, lonely_pool)
    away = Client(create_app(replace(services, webhook_calls=calls)), services.settings)
    assert hook.send(headers={"webhook-id": "d-1"}).status_code == 202
    answer = Hook(away, services, hook.id).send(headers={"webhook-id": "d-1"})
    assert_error(answer, 503, "The webhook can't take this delivery now.")
    assert "Redis" not in answer.text
