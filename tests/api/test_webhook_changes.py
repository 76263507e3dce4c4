"""What a web process remembers of webhooks: changes act at once in every process, and strangers cost few look-ups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import pytest

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
