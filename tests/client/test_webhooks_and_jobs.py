"""Webhooks, and jobs as records, by the real library."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.client.conftest import Maker
from tests.client.driver import Client, ClientError, output_of
from tests.integration.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("client")


@pytest.fixture
def target(client: Client, make: Maker, name: str) -> tuple[str, str]:
    """A function with a version, and an alias of that."""
    function_id = make()["id"]
    client.function_versions.create(function_id)
    client.function_aliases.create(name, function_id, function_version=1)
    return function_id, name


def named(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    return row["function_id"], row["function_version"], row["function_alias"]


def test_webhooks_are_made_shown_listed_and_deleted(
    client: Client, service: Service, target: tuple[str, str], check_fields: Callable[..., None]
) -> None:
    function_id, alias = target
    by_version = client.webhooks.create(function_id, function_version="1", description="für Jenkins")
    by_alias = client.webhooks.create(None, function_alias=alias, function_version=None)

    assert named(by_version) == (function_id, 1, None)
    assert named(by_alias) == (None, None, alias)
    assert (by_version["description"], by_alias["description"]) == ("für Jenkins", None)
    assert by_version["webhook_url"] == f"{service.url}/v1/webhooks/{by_version['id']}/invoke"
    for made in (by_version, by_alias):
        assert client.webhooks.get(made["id"]) == made
    for filters in ({}, {"all_projects": True}, {"project_id": "default"}):
        assert client.webhooks.list(**filters)[-2:] == [by_version, by_alias]
    assert client.webhooks.list(function_alias=alias) == [by_alias]
    check_fields("webhook", *client.webhooks.list(), by_version, by_alias)

    with pytest.raises(ClientError, match="in use") as refused:
        client.functions.delete(function_id)
    assert refused.value.kind == "HTTPForbidden"
    assert client.webhooks.delete(by_version["id"]) is None
    with pytest.raises(ClientError) as gone:
        client.webhooks.get(by_version["id"])
    assert gone.value.kind == "HTTPNotFound"


def test_webhook_is_invoked_by_its_url(client: Client, make: Maker) -> None:
    webhook = client.webhooks.create(make()["id"])
    answer = requests.post(webhook["webhook_url"], json={"name": "Ada"}, timeout=60)
    assert answer.status_code == 202

    def ended() -> bool:
        return bool(client.function_executions.get(answer.json()["execution_id"])["status"] == "success")

    wait_until("the execution has ended", ended)
    assert output_of(client.function_executions.get(answer.json()["execution_id"])) == "Hello, Ada"


def test_webhook_is_updated_with_nulls_for_what_stays(
    client: Client, target: tuple[str, str], check_fields: Callable[..., None]
) -> None:
    function_id, alias = target
    made = client.webhooks.create(function_id)
    nothing = client.webhooks.update(made["id"], function_id=None, function_version=None, description=None)
    assert named(nothing) == (function_id, 0, None)
    updated = client.webhooks.update(made["id"], function_id=None, function_version="1", description="neü")
    assert (named(updated), updated["description"]) == ((function_id, 1, None), "neü")
    by_alias = client.webhooks.update(made["id"], function_alias=alias)
    assert named(by_alias) == (None, None, alias)
    again = client.webhooks.update(made["id"], function_id=function_id, function_version=None, description=None)
    assert named(again) == (function_id, 0, None)
    check_fields("webhook", nothing, updated, by_alias)


def test_jobs_are_made_shown_listed_and_deleted(
    client: Client, target: tuple[str, str], check_fields: Callable[..., None]
) -> None:
    function_id, alias = target
    first = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    recurring = client.jobs.create(
        function_id=function_id,
        function_version="1",
        name="jede Nacht, schön",
        pattern="0 3 * * *",
        function_input='{"name": "Ada"}',
        count=5,
    )
    once = client.jobs.create(
        function_alias=alias, function_version=None, first_execution_time=f"{first:%Y-%m-%d %H:%M}"
    )

    assert named(recurring) == (function_id, 1, None)
    assert named(once) == (None, None, alias)
    assert (recurring["name"], recurring["pattern"], recurring["count"]) == ("jede Nacht, schön", "0 3 * * *", 5)
    assert recurring["function_input"] == '{"name": "Ada"}'
    assert recurring["first_execution_time"] == recurring["next_execution_time"]
    assert recurring["next_execution_time"].endswith("03:00:00")
    assert (once["name"], once["pattern"], once["count"], once["status"]) == (None, None, 1, "running")
    assert once["first_execution_time"] == once["next_execution_time"] == f"{first:%Y-%m-%d %H:%M}:00"
    for made in (recurring, once):
        assert client.jobs.get(made["id"]) == made
    assert client.jobs.list()[-2:] == client.jobs.list(all_projects=True)[-2:] == [recurring, once]
    check_fields("job", recurring, once, *client.jobs.list())

    for made in (recurring, once):
        assert client.jobs.delete(made["id"]) is None
    with pytest.raises(ClientError) as gone:
        client.jobs.get(once["id"])
    assert gone.value.kind == "HTTPNotFound"


def test_job_is_updated_with_nulls_for_what_stays(
    client: Client, make: Maker, check_fields: Callable[..., None]
) -> None:
    made = client.jobs.create(function_id=make()["id"], pattern="*/5 * * * *", name="first")
    given = {"name": None, "status": None, "pattern": None, "next_execution_time": None, "function_input": None}

    assert client.jobs.update(made["id"], **given)["updated_at"] is None
    paused = client.jobs.update(made["id"], **given | {"status": "paused", "name": "second"})
    assert (paused["status"], paused["name"]) == ("paused", "second")
    running = client.jobs.update(made["id"], status="running", pattern="0 0 * * *", function_input="text")
    assert (running["status"], running["pattern"], running["function_input"]) == ("running", "0 0 * * *", "text")
    assert running["next_execution_time"].endswith("00:00:00")
    later = client.jobs.update(made["id"], next_execution_time="2099-01-01 01:02:03")
    assert later["next_execution_time"] == "2099-01-01 01:02:03"
    assert client.jobs.update(made["id"], status="cancelled")["status"] == "cancelled"
    check_fields("job", paused, running, later)


def test_job_without_a_time_is_refused(client: Client, make: Maker) -> None:
    with pytest.raises(ClientError, match="first_execution_time") as refused:
        client.jobs.create(function_id=make()["id"])
    assert refused.value.kind == "HTTPBadRequest"
