"""Which class of the library an error of the service becomes, and that its text is the service's own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.conftest import Maker
from tests.client.driver import Client, ClientError, Driver, running_driver
from tests.integration.service import Service, running_service, wait_until

pytestmark = pytest.mark.xdist_group("client-errors")

NOWHERE = str(uuid.uuid4())


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One that has a single worker, and lets nobody wait for it."""
    with running_service(max_workers=1, warm_workers=1, invoke_queue_timeout_s=0.2, max_input_size=1000) as running:
        running.http.headers["Connection"] = "close"
        yield running


@pytest.fixture(scope="module")
def driver(service: Service) -> Iterator[Driver]:
    with running_driver(service.url) as running:
        yield running


def check(call: Callable[[], Any], kind: str, code: int, message: str) -> None:
    """The call raises this, with the service's own words."""
    with pytest.raises(ClientError) as raised:
        call()
    assert (raised.value.kind, raised.value.code) == (kind, code)
    assert raised.value.message == f"{message} (HTTP {code})"


def faultstring(service: Service, method: str, path: str, **body: Any) -> str:
    """What the service says to anybody."""
    answer = service.request(method, path, **body)
    assert answer.status_code >= 400
    return str(answer.json()["faultstring"])


@pytest.mark.parametrize("manager", ["runtimes", "functions", "function_executions", "webhooks", "jobs"])
def test_id_that_is_none_is_a_bad_request(client: Client, service: Service, manager: str) -> None:
    path = f"/v1/{manager.removeprefix('function_')}/none"
    for method, call in (("GET", getattr(client, manager).get), ("DELETE", getattr(client, manager).delete)):
        message = faultstring(service, method, path)
        assert "Expected a uuid" in message
        check(lambda call=call: call("none"), "HTTPBadRequest", 400, message)


@pytest.mark.parametrize("manager", ["runtimes", "functions", "function_executions", "webhooks", "jobs"])
def test_id_that_nothing_has_is_not_found(client: Client, service: Service, manager: str) -> None:
    path = f"/v1/{manager.removeprefix('function_')}/{NOWHERE}"
    for method, call in (("GET", getattr(client, manager).get), ("DELETE", getattr(client, manager).delete)):
        message = faultstring(service, method, path)
        assert NOWHERE in message
        check(lambda call=call: call(NOWHERE), "HTTPNotFound", 404, message)


def test_field_at_fault_is_named(client: Client, service: Service, make: Maker) -> None:
    made = make()
    message = faultstring(service, "PUT", f"/v1/functions/{made['id']}", data={"cpu": "50"})
    assert message == "cpu resource limitation not within the allowable range: 100 ~ 300(millicpu)."
    check(lambda: client.functions.update(made["id"], cpu=50), "HTTPBadRequest", 400, message)


def test_an_entry_in_another_form_is_refused_with_the_right_one(client: Client, service: Service, make: Maker) -> None:
    made = make()
    message = faultstring(service, "PUT", f"/v1/functions/{made['id']}", data={"entry": "hello.py:main"})
    assert message.startswith("entry: must be module.function ")
    assert "such as hello.main;" in message
    check(lambda: client.functions.update(made["id"], entry="hello.py:main"), "HTTPBadRequest", 400, message)
    runtime_id = made["runtime_id"]
    code, archive = {"source": "package"}, None
    create = client.functions.create
    check(lambda: create(code, runtime_id, archive, entry="hello.py:main"), "HTTPBadRequest", 400, message)


def test_what_is_in_use_is_forbidden_to_delete(client: Client, service: Service, make: Maker, name: str) -> None:
    made = make()
    client.function_aliases.create(name, made["id"])
    message = faultstring(service, "DELETE", f"/v1/functions/{made['id']}")
    assert name in message
    check(lambda: client.functions.delete(made["id"]), "HTTPForbidden", 403, message)
    message = faultstring(service, "DELETE", f"/v1/runtimes/{made['runtime_id']}")
    check(lambda: client.runtimes.delete(made["runtime_id"]), "HTTPForbidden", 403, message)


def test_name_that_is_taken_is_a_conflict(client: Client, service: Service, make: Maker, name: str) -> None:
    made = make()
    client.function_aliases.create(name, made["id"])
    message = faultstring(service, "POST", "/v1/aliases", json={"name": name, "function_id": made["id"]})
    assert name in message
    check(lambda: client.function_aliases.create(name, made["id"]), "HTTPConflict", 409, message)


def test_runtime_that_is_not_available_is_a_conflict(
    client: Client, zipped: Callable[..., Any], name: str
) -> None:
    runtime_id = client.runtimes.create("nobody-has-this-image", name=name)["id"]
    wait_until("the runtime fails", lambda: client.runtimes.get(runtime_id)["status"] == "error")
    with pytest.raises(ClientError, match=r"\(HTTP 409\)$") as refused:
        client.functions.create({"source": "package"}, runtime_id, zipped())
    assert (refused.value.kind, refused.value.code) == ("HTTPConflict", 409)


def test_input_above_the_limit_is_too_large(client: Client, service: Service, make: Maker) -> None:
    made = make()
    message = faultstring(service, "POST", "/v1/executions", json={"function_id": made["id"], "input": "x" * 1001})
    call = client.function_executions.create
    check(lambda: call(made["id"], input="x" * 1001), "HTTPOverLimit", 413, message)


def test_call_without_a_free_worker_finds_the_service_unavailable(
    driver: Driver, service: Service, make: Maker
) -> None:
    client = Client(driver, session=True)
    busy, other = make("import time\ndef main():\n    time.sleep(30)\n", timeout=3), make()
    wait_until("the worker is warm", lambda: service.capacity(busy["runtime_id"])["available"] == 1)
    running = threading.Thread(target=service.call, args=(busy["id"],))
    running.start()
    wait_until("the worker is taken", lambda: len(client.function_workers.list(busy["id"])) == 1)
    with pytest.raises(ClientError, match=r"\(HTTP 503\)$") as refused:
        client.function_executions.create(other["id"])
    assert (refused.value.kind, refused.value.code) == ("HTTPServiceUnavailable", 503)
    running.join()
