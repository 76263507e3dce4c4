"""The `openstack` commands of what names functions: versions, aliases, webhooks and jobs."""

from __future__ import annotations

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Driver
from tests.client.printed import created, listed, shown
from tests.integration.service import Service, wait_until

pytestmark = pytest.mark.xdist_group("client")


@pytest.fixture
def target(driver: Driver, make: Maker, name: str) -> tuple[str, str]:
    """A function of that name, with a version, and an alias of that."""
    function_id = make(name=name)["id"]
    driver.prints("function", "version", "create", function_id)
    driver.prints("function", "alias", "create", f"{name} alias", "--function", name, "--function-version", 1)
    return function_id, f"{name} alias"


def named(row: dict[str, object]) -> tuple[object, object, object]:
    return row["function_id"], row["function_version"], row["function_alias"]


def test_version_commands(driver: Driver, service: Service, make: Maker, name: str) -> None:
    function_id = make(name=name)["id"]
    path = f"/v1/functions/{function_id}/versions"
    first = created(driver, "function", "version", "create", name, "--description", "die erste, schön")
    assert (first["version_number"], first["description"], first["count"]) == (1, "die erste, schön", 0)
    driver.prints("function", "update", name, "--timeout", 9)
    second = created(driver, "function", "version", "create", function_id)
    assert (second["version_number"], second["description"]) == (2, None)

    shown(driver, service, f"{path}/1", "function", "version", "show", function_id, 1)
    assert listed(driver, service, path, "function", "version", "list", function_id) == [first["id"], second["id"]]
    driver.prints("function", "execution", "create", "--function", name, "--function-version", 2)
    workers = f"/v1/functions/{function_id}/workers?function_version=2"
    assert len(service.request("GET", workers).json()) == 1
    assert driver.prints("function", "version", "detach", function_id, 2) == (
        f"Request to detach function {function_id}(version 2) has been accepted.\n"
    )
    wait_until("the worker is gone", lambda: service.request("GET", workers).json() == [])
    assert driver.prints("function", "version", "delete", function_id, 2) == ""
    assert listed(driver, service, path, "function", "version", "list", function_id) == [first["id"]]


def test_alias_commands(driver: Driver, service: Service, make: Maker, name: str) -> None:
    function_id = make(name=name)["id"]
    driver.prints("function", "version", "create", function_id)
    alias = f"{name}+ünd. mehr"
    version = ("--function-version", 1)
    made = driver.json("function", "alias", "create", alias, "--function", name, *version, "--description", "für alle")
    assert (made["name"], made["function_id"], made["function_version"]) == (alias, function_id, 1)
    assert made["description"] == "für alle"
    assert driver.json("function", "alias", "create", f"{name}-2", "--function", function_id)["function_version"] == 0

    shown(driver, service, f"/v1/aliases/{alias.replace('+', '%2B')}", "function", "alias", "show", alias)
    assert listed(driver, service, "/v1/aliases", "function", "alias", "list")[-2:] == [alias, f"{name}-2"]
    execution = driver.json("function", "execution", "create", "--function-alias", alias)
    assert (execution["function_alias"], execution["status"]) == (alias, "success")

    updated = driver.json("function", "alias", "update", alias, "--function", name, "--function-version", "0")
    assert (updated["function_version"], updated["description"]) == (0, "für alle")
    assert driver.json("function", "alias", "update", alias, "--description", "neü")["description"] == "neü"
    assert driver.prints("function", "alias", "delete", alias, f"{name}-2") == (
        f"Request to delete function_alias {alias} has been accepted.\n"
        f"Request to delete function_alias {name}-2 has been accepted.\n"
    )


def test_webhook_commands(driver: Driver, service: Service, target: tuple[str, str], name: str) -> None:
    function_id, alias = target
    create = ("webhook", "create", "--description", "für Jenkins")
    by_version = created(driver, *create, "--function", name, "--function-version", 1)
    by_alias = created(driver, *create, "--function-alias", alias)
    assert named(by_version) == (function_id, 1, None)
    assert named(by_alias) == (None, None, alias)
    assert by_version["webhook_url"] == f"{service.url}/v1/webhooks/{by_version['id']}/invoke"
    both = [by_version["id"], by_alias["id"]]

    shown(driver, service, f"/v1/webhooks/{both[1]}", "webhook", "show", both[1])
    assert listed(driver, service, "/v1/webhooks", "webhook", "list")[-2:] == both
    alone = ("--filter", f"function_id={function_id}")
    assert listed(driver, service, f"/v1/webhooks?function_id={function_id}", "webhook", "list", *alone) == both[:1]

    updated = driver.json("webhook", "update", both[0], "--function-version", "0", "--description", "neü")
    assert (named(updated), updated["description"]) == ((function_id, 0, None), "neü")
    moved = driver.json("webhook", "update", both[1], "--function-id", function_id)
    assert named(moved) == (function_id, 0, None)
    assert driver.prints("webhook", "delete", *both) == "".join(
        f"Request to delete webhook {webhook_id} has been accepted.\n" for webhook_id in both
    )


def test_job_commands(driver: Driver, service: Service, target: tuple[str, str], name: str) -> None:
    function_id, alias = target
    pattern = ("--pattern", "0 3 * * *", "--count", 4, "--name", "jede Nacht, schön")
    by_version = created(
        driver, "job", "create", "--function", name, "--function-version", 1, *pattern, "--function-input", '{"a": "ü"}'
    )
    by_alias = created(driver, "job", "create", "--function-alias", alias, "--first-execution-time", "2099-01-01 01:02")
    assert named(by_version) == (function_id, 1, None)
    assert named(by_alias) == (None, None, alias)
    assert (by_version["pattern"], by_version["count"], by_version["name"]) == ("0 3 * * *", 4, "jede Nacht, schön")
    assert (by_version["function_input"], by_version["status"]) == ('{"a": "ü"}', "running")
    assert by_alias["next_execution_time"] == "2099-01-01 01:02:00"
    both = [by_version["id"], by_alias["id"]]

    shown(driver, service, f"/v1/jobs/{both[0]}", "job", "show", both[0])
    assert listed(driver, service, "/v1/jobs", "job", "list")[-2:] == both
    update = ("job", "update", both[0])
    paused = driver.json(*update, "--status", "paused", "--name", "neü", "--function-input", "text")
    assert (paused["status"], paused["name"], paused["function_input"]) == ("paused", "neü", "text")
    assert paused["pattern"] == "0 3 * * *"
    moved = driver.json(*update, "--status", "running", "--pattern", "0 4 * * *")
    assert moved["next_execution_time"].endswith("04:00:00")
    later = driver.json(*update, "--next-execution-time", "2099-01-01 00:00:00")
    assert later["next_execution_time"] == "2099-01-01 00:00:00"
    assert driver.json(*update, "--status", "cancelled")["status"] == "cancelled"
    assert driver.openstack(*update, "--status", "running").status == 1
    assert driver.prints("job", "delete", *both) == "".join(
        f"Request to delete job {job_id} has been accepted.\n" for job_id in both
    )
