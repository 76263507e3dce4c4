"""The real client, by Keystone: two projects and an admin, from the catalogue's endpoint to a call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.client.driver import Client, ClientError, Driver, output_of, running_driver
from tests.integration.openstack.cloud import Cloud
from tests.integration.service import package

HELLO = "def main(name='World'):\n    return 'Hello, ' + name\n"
USERS = ("alice", "bob", "admin")


@pytest.fixture(scope="module")
def endpoint(cloud: Cloud) -> Any:
    """Moves the endpoint of the function engine in the catalogue."""
    keystone = cloud.keystone
    admin = keystone.token("admin")
    services = keystone.request("GET", "/services?type=function-engine", admin).json()["services"]
    path = f"/endpoints?service_id={services[0]['id']}"
    endpoints = keystone.request("GET", path, admin).json()["endpoints"]

    def move(url: str) -> None:
        for row in endpoints:
            answer = keystone.request("PATCH", f"/endpoints/{row['id']}", admin, json={"endpoint": {"url": url}})
            assert answer.status_code == 200, answer.text

    return move


@pytest.fixture(scope="module")
def drivers(cloud: Cloud, endpoint: Any) -> Iterator[dict[str, Driver]]:
    """A process of the client for each user, as its `rc` file would make it."""
    endpoint(cloud.service.url)
    with ExitStack() as stack:
        yield {user: stack.enter_context(running_driver(None, account=cloud.account(user))) for user in USERS}


def names(rows: list[dict[str, Any]]) -> set[str]:
    return {row["name"] for row in rows}


def test_the_library_in_two_projects(cloud: Cloud, drivers: dict[str, Driver], tmp_path: Path) -> None:
    alice, bob, admin = (Client(drivers[user], session=True) for user in USERS)
    runtime_id = cloud.service.runtime()
    assert runtime_id in {row["id"] for row in alice.runtimes.list()}
    zipped = tmp_path / "f.zip"
    zipped.write_bytes(package(main=HELLO))
    fields = {"runtime": runtime_id, "code": {"source": "package"}, "package": zipped}
    its = alice.functions.create(name="of-alice", **fields)
    other = bob.functions.create(name="of-bob", **fields)

    project = cloud.keystone.state["users"]["alice"]["project_id"]
    assert its["project_id"] == project
    both = {"of-alice", "of-bob"}
    assert names(alice.functions.list()) & both == {"of-alice"}
    assert names(bob.functions.list()) & both == {"of-bob"}
    assert not names(admin.functions.list()) & both
    assert names(admin.functions.list(all_projects=True)) >= both
    with pytest.raises(ClientError, match="403"):
        bob.functions.list(all_projects=True)

    assert output_of(alice.function_executions.create(its["id"], input='{"name": "Ada"}')) == "Hello, Ada"
    for act in (bob.functions.get, bob.functions.delete, bob.function_executions.create):
        with pytest.raises(ClientError) as refused:
            act(its["id"])
        assert "404" in str(refused.value)
    assert admin.functions.get(its["id"])["project_id"] == project
    with pytest.raises(ClientError, match="403"):
        admin.functions.delete(its["id"])
    with pytest.raises(ClientError, match="403"):
        alice.runtimes.create("python3")

    alice.functions.delete(its["id"])
    bob.functions.delete(other["id"])
    assert not names(admin.functions.list(all_projects=True)) & both


def test_the_commands_in_two_projects(cloud: Cloud, drivers: dict[str, Driver]) -> None:
    alice, bob, admin = (drivers[user] for user in USERS)
    (alice.folder / "hello.py").write_text(HELLO)
    runtime = admin.json("runtime", "create", "python3", "--name", "commands")
    create = ("function", "create", "--runtime", cloud.service.runtime(), "--file", "hello.py", "--entry", "hello.main")
    its = alice.json(*create, "--name", "commanded")

    assert "commanded" in {row["Name"] for row in alice.json("function", "list")}
    for driver in (bob, admin):
        assert "commanded" not in {row["Name"] for row in driver.json("function", "list")}
    everything = admin.json("function", "list", "--filter", "all_projects=true")
    assert "commanded" in {row["Name"] for row in everything}
    execution = alice.json("function", "execution", "create", "--function", its["id"], "--input", '{"name": "Ada"}')
    assert json.loads(execution["result"])["output"] == "Hello, Ada"
    hidden = bob.openstack("function", "show", its["id"])
    assert (hidden.status, hidden.stdout) == (1, "")
    assert "(HTTP 404)" in hidden.stderr
    refused = alice.openstack("runtime", "delete", runtime["id"])
    assert "(HTTP 403)" in refused.stdout + refused.stderr

    alice.prints("function", "delete", its["id"])
    admin.prints("runtime", "delete", runtime["id"])


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_endpoints_are_found_in_the_catalogue_however_they_end(
    cloud: Cloud, endpoint: Any, drivers: dict[str, Driver], ending: str
) -> None:
    endpoint(cloud.service.url + ending)
    assert cloud.service.runtime() in {row["Id"] for row in drivers["bob"].json("runtime", "list")}


def test_a_wrong_password_is_told_by_keystone(drivers: dict[str, Driver]) -> None:
    done = drivers["alice"].openstack("--os-password", "wrong", "runtime", "list")
    assert done.status == 1
    assert "(HTTP 401)" in done.stderr
