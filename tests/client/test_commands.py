"""The `openstack` commands of runtimes, functions, their workers and executions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.client.conftest import HELLO, Maker
from tests.client.driver import Driver
from tests.client.printed import created, listed, shown
from tests.integration.service import Service, package, wait_until

pytestmark = pytest.mark.xdist_group("client")

NOWHERE = "11111111-2222-3333-4444-555555555555"


def workers(driver: Driver, function_id: str) -> int:
    return len(driver.json("function", "worker", "list", function_id))


def test_runtime_commands(driver: Driver, service: Service) -> None:
    made = created(driver, "runtime", "create", "python3", "--name", "mine", "--description", "für alle", "--private")
    assert (made["name"], made["is_public"], made["trusted"]) == ("mine", False, True)
    other = created(driver, "runtime", "create", "python3", "--untrusted")
    assert (other["is_public"], other["trusted"]) == (True, False)

    def available() -> bool:
        return bool(service.request("GET", f"/v1/runtimes/{made['id']}").json()["status"] == "available")

    wait_until("the runtime is available", available)
    shown(driver, service, f"/v1/runtimes/{made['id']}", "runtime", "show", made["id"])
    assert made["id"] in listed(driver, service, "/v1/runtimes", "runtime", "list")
    pool = driver.json("runtime", "pool", "show", made["id"])
    assert pool["name"] == made["id"]
    assert pool["capacity"].keys() == {"total", "available"}
    assert driver.prints("runtime", "delete", made["id"], other["id"]) == "".join(
        f"Request to delete runtime {row['id']} has been accepted.\n" for row in (made, other)
    )


def test_function_is_created_from_a_file_of_code(driver: Driver, service: Service, name: str) -> None:
    (driver.folder / "grüße.py").write_text(HELLO)
    limits = ("--cpu", 150, "--memory-size", 64 << 20, "--timeout", 8)
    runtime = service.request("GET", f"/v1/runtimes/{service.runtime()}").json()["name"]
    source = ("--runtime", runtime, "--file", "grüße.py", "--entry", "grüße.main")

    made = created(driver, "function", "create", "--name", name, *source, *limits)

    assert (made["name"], made["entry"], made["runtime_id"]) == (name, "grüße.main", service.runtime())
    assert (made["cpu"], made["memory_size"], made["timeout"]) == (150, 64 << 20, 8)
    assert made["code"]["source"] == "package"
    for key in (made["id"], name):
        shown(driver, service, f"/v1/functions/{made['id']}", "function", "show", key)
    assert made["id"] in listed(driver, service, "/v1/functions", "function", "list")
    assert listed(driver, service, f"/v1/functions?name={name}", "function", "list", "--filter", f"name={name}") == [
        made["id"]
    ]
    execution = driver.json("function", "execution", "create", "--function", name, "--input", '{"name": "Ada"}')
    assert json.loads(execution["result"])["output"] == "Hello, Ada"
    assert driver.prints("function", "delete", name) == f"Request to delete function {made['id']} has been accepted.\n"


def test_function_is_created_from_a_package_updated_and_downloaded(
    driver: Driver, service: Service, tmp_path: Path, name: str
) -> None:
    old, new = tmp_path / "alt ä.zip", tmp_path / "new.zip"
    old.write_bytes(package(main=HELLO))
    new.write_bytes(package(main="def main():\n    return 'new'\n"))
    runtime = ("--runtime", service.runtime())
    made = created(driver, "function", "create", *runtime, "--name", name, "--package", old)
    assert (made["entry"], made["timeout"]) == ("main.main", 5)

    same = driver.json("function", "update", name)
    assert same["updated_at"] is None
    updated = driver.json("function", "update", name, "--package", new, "--description", "schön", "--cpu", 300)
    assert (updated["description"], updated["cpu"], updated["name"]) == ("schön", 300, name)
    assert updated["code"]["md5sum"] != made["code"]["md5sum"]

    assert driver.prints("function", "download", name, "-o", "got.zip").startswith("Code package downloaded to ")
    assert (driver.folder / "got.zip").read_bytes() == new.read_bytes()
    driver.prints("function", "download", made["id"])
    assert (driver.folder / f"{made['id']}.zip").read_bytes() == new.read_bytes()


def test_function_of_an_image_needs_no_runtime(driver: Driver, service: Service, name: str) -> None:
    made = created(driver, "function", "create", "--name", name, "--image", "registry/app:1")
    assert made["code"] == {"source": "image", "image": "registry/app:1"}
    shown(driver, service, f"/v1/functions/{made['id']}", "function", "show", name)


def test_function_of_swift_is_refused_with_the_reason(driver: Driver, service: Service, name: str) -> None:
    options = ("--name", name, "--runtime", service.runtime(), "--container", "c", "--object", "o")
    done = driver.openstack("function", "create", *options)
    assert done.status == 1
    assert "authentication" in done.stderr


def test_worker_commands(driver: Driver, make: Maker) -> None:
    function_id = make()["id"]
    accepted = f"function {function_id} has been accepted.\n"
    assert driver.json("function", "worker", "list", function_id) == []

    assert driver.prints("function", "scaleup", function_id) == f"Request to scale up {accepted}"
    driver.prints("function", "scaleup", function_id, "--count", 2)
    wait_until("there are three workers", lambda: workers(driver, function_id) == 3)
    rows = driver.json("function", "worker", "list", function_id)
    assert {row["Function_id"] for row in rows} == {function_id}
    assert all(row["Worker_name"] for row in rows)

    assert driver.prints("function", "scaledown", function_id) == f"Request to scale down {accepted}"
    wait_until("there are two workers", lambda: workers(driver, function_id) == 2)
    driver.prints("function", "scaledown", function_id, "--count", 2)
    wait_until("there is one worker", lambda: workers(driver, function_id) == 1)
    assert driver.prints("function", "detach", function_id) == f"Request to detach {accepted}"
    wait_until("there is none", lambda: workers(driver, function_id) == 0)


def test_execution_commands(driver: Driver, service: Service, make: Maker, name: str) -> None:
    function_id = make("def main(word='nothing'):\n    print('grüße')\n    return word\n", name=name)["id"]
    create = ("function", "execution", "create")
    first = created(driver, *create, "--function", name, "--input", "grüße")
    second = created(driver, *create, "--function", function_id, "--function-version", 0, "--sync")
    assert json.loads(first["result"])["output"] == "grüße"
    assert (first["input"], second["input"]) == ("grüße", None)
    assert (first["sync"], second["status"]) == (True, "success")

    path = f"/v1/executions/{first['id']}"
    shown(driver, service, path, "function", "execution", "show", first["id"])
    both = [first["id"], second["id"]]
    assert listed(driver, service, "/v1/executions", "function", "execution", "list")[-2:] == both
    query = f"function_id={function_id}"
    filters = ("--filter", query, "--filter", "status=neq:failed", "--filter", "all_projects=True")
    assert listed(driver, service, f"/v1/executions?{query}", "function", "execution", "list", *filters) == both
    assert driver.prints("function", "execution", "log", "show", first["id"]) == (
        f"Start execution: {first['id']}\ngrüße\nFinished execution: {first['id']}\n"
    )

    delete = ("function", "execution", "delete")
    accepted = "Request to delete execution {} has been accepted.\n"
    assert driver.prints(*delete, "--execution", first["id"]) == accepted.format(first["id"])
    assert driver.prints(*delete, "--function", function_id) == accepted.format(second["id"])
    assert service.request("GET", f"/v1/executions?function_id={function_id}").json() == []


def test_an_asynchronous_execution_is_answered_at_once_and_shown_with_its_result_later(
    driver: Driver, service: Service, make: Maker, name: str
) -> None:
    make(name=name)
    create = ("function", "execution", "create", "--function", name, "--input", '{"name": "Ada"}')
    accepted = created(driver, *create, "--async")
    assert (accepted["status"], accepted["sync"], accepted["result"]) == ("running", False, None)

    service.ended(accepted["id"])

    path = f"/v1/executions/{accepted['id']}"
    ended = shown(driver, service, path, "function", "execution", "show", accepted["id"])
    assert (ended["status"], ended["sync"]) == ("success", False)
    assert json.loads(ended["result"])["output"] == "Hello, Ada"


def test_failure_is_said_in_the_service_s_words(driver: Driver) -> None:
    for command in ("function show", "function execution show", "job show"):
        done = driver.openstack(*command.split(), NOWHERE)
        assert (done.status, done.stdout) == (1, "")
        assert NOWHERE in done.stderr
        assert "(HTTP 404)" in done.stderr


def test_deleting_goes_on_after_a_failure_and_tells_of_it(driver: Driver, make: Maker) -> None:
    function_id = make()["id"]
    done = driver.openstack("function", "delete", NOWHERE, function_id)
    assert done.status == 1
    assert "(HTTP 404)" in done.stdout
    assert f"Request to delete function {function_id} has been accepted." in done.stdout


def test_the_executable_that_users_type(driver: Driver, make: Maker, name: str) -> None:
    make(name=name)
    done = driver.executable("function", "execution", "create", "--function", name, "-f", "value", "-c", "status")
    assert (done.status, done.stdout) == (0, "success\n"), done
    done = driver.executable("function", "show", NOWHERE)
    assert (done.status, done.stdout) == (1, ""), done
    assert f"Function {NOWHERE} not found. (HTTP 404)" in done.stderr
