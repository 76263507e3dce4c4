"""A user registers a runtime, uploads a function, calls it, and finds the record; on both databases."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.integration.service import Service, package, running_service, wait_until
from tests.servers.postgres import PostgresServer

HELLO = "def main(name='World'):\n    print('saying hello')\n    return 'Hello, ' + name\n"


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"calls-{name}")) for name in ("sqlite", "postgresql")],
)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    if request.param == "sqlite":
        with running_service(max_workers=8) as running:
            yield running
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with running_service(server.create_database(), max_workers=8) as running:
            yield running


def output_of(execution: dict[str, Any]) -> Any:
    return json.loads(execution["result"])["output"]


def test_call_is_answered_and_recorded_with_its_result_and_log(service: Service) -> None:
    function = service.function(HELLO)

    execution = service.call(function, {"name": "Ada"}, description="first")

    assert execution["status"] == "success"
    assert execution["function_id"] == function
    assert execution["input"] == '{"name": "Ada"}'
    result = json.loads(execution["result"])
    assert result["output"] == "Hello, Ada"
    assert 0 <= result["duration"] < 5
    shown = service.request("GET", f"/v1/executions/{execution['id']}").json()
    assert shown == execution
    assert service.log_of(execution) == (
        f"Start execution: {execution['id']}\nsaying hello\nFinished execution: {execution['id']}\n"
    )
    assert service.request("GET", f"/v1/functions/{function}").json()["count"] == 1


def test_second_call_finds_the_worker_and_its_module_state(service: Service) -> None:
    function = service.function("calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n")
    executions = [service.call(function) for _ in range(3)]
    assert [output_of(execution) for execution in executions] == [1, 2, 3]
    assert [execution["cold"] for execution in executions][1:] == ["none", "none"]
    assert executions[0]["cold"] in ("assign", "start"), "a warm worker was left by the tests before, or not"


def test_a_restart_of_web_right_after_a_call_loses_no_worker(service: Service) -> None:
    function_id = service.function("import os\ndef main():\n    return os.getpid()\n")
    before = [output_of(service.call(function_id)) for _ in range(10)]

    service.stop("web")
    service.start_web()

    wait_until("web is ready", lambda: service.request("GET", "/readyz").status_code == 200)
    execution = service.call(function_id)
    assert execution["cold"] == "none" and output_of(execution) in before


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"a": 1}, [[], {"a": 1}]),
        ("text", [["text"], {}]),
        ('{"a": 2}', [[], {"a": 2}]),
        (7, [["7"], {}]),
        ("", [[""], {}]),
        (None, [[], {}]),
    ],
)
def test_input_is_keywords_for_an_object_and_one_argument_for_anything_else(
    service: Service, given: Any, seen: Any
) -> None:
    function = service.function("def main(*args, **kwargs):\n    kwargs.pop('context')\n    return [args, kwargs]\n")
    assert output_of(service.call(function, given)) == seen


def test_function_gets_its_context(service: Service) -> None:
    function = service.function(
        "def main(context):\n    return {k: v for k, v in context.items() if isinstance(v, (str, int, type(None)))}\n"
    )
    execution = service.call(function)
    context = output_of(execution)
    assert context["execution_id"] == execution["id"]
    assert context["function_id"] == function
    assert context["os_session"] is None


def test_large_input_arrives_whole(service: Service) -> None:
    function = service.function("def main(text):\n    return len(text)\n")
    execution = service.call(function, {"text": "é" * 300_000})
    assert output_of(execution) == 300_000
    assert service.request("GET", f"/v1/executions/{execution['id']}").json()["status"] == "success"


def test_too_many_calls_at_once_wait_their_turn_and_none_is_lost(service: Service) -> None:
    function = service.function("import time\ndef main(n):\n    time.sleep(0.05)\n    return n\n")
    with ThreadPoolExecutor(40) as callers:
        executions = list(callers.map(lambda n: service.call(function, {"n": n}), range(120)))
    assert [output_of(execution) for execution in executions] == list(range(120))
    assert service.request("GET", f"/v1/functions/{function}").json()["count"] == 120
    rows = service.request("GET", f"/v1/executions?function_id={function}").json()
    assert {row["id"] for row in rows} == {execution["id"] for execution in executions}


def test_updated_code_runs_from_the_answer_on(service: Service) -> None:
    from tests.integration.service import package

    function = service.function("def main():\n    return 0\n")
    stop = threading.Event()
    seen: list[Any] = []

    def call_on() -> None:
        while not stop.is_set():
            seen.append(output_of(service.call(function)))

    caller = threading.Thread(target=call_on)
    caller.start()
    for number in range(1, 6):
        files = {"package": ("f.zip", package(main=f"def main():\n    return {number}\n"), "application/zip")}
        answer = service.request("PUT", f"/v1/functions/{function}", files=files)
        assert answer.status_code == 200, answer.text
        assert output_of(service.call(function)) == number
    stop.set()
    caller.join()
    assert seen == sorted(seen)


def test_idle_workers_of_one_function_make_room_for_another(service: Service) -> None:
    functions = [service.function(f"def main():\n    return {number}\n") for number in range(12)]
    for _ in range(2):
        assert [output_of(service.call(function)) for function in functions] == list(range(12))
    assert service.capacity(service.runtime())["total"] <= 8


def test_deleted_function_is_not_called_any_more(service: Service) -> None:
    function = service.function(HELLO)
    service.call(function)
    assert service.request("DELETE", f"/v1/functions/{function}").status_code == 204
    answer = service.request("POST", "/v1/executions", json={"function_id": function})
    assert answer.status_code == 404
    assert "function" in answer.json()["faultstring"].lower()


@pytest.mark.parametrize("act", ["call", "scale_up"])
def test_a_lost_package_is_named_until_it_is_uploaded_anew(service: Service, act: str) -> None:
    folder = service.var_dir / "packages"
    before = set(folder.iterdir())
    function = service.function(HELLO)
    (lost,) = set(folder.iterdir()) - before
    lost.unlink()
    path = "/v1/executions" if act == "call" else f"/v1/functions/{function}/scale_up"
    body = {"function_id": function} if act == "call" else {"count": 1}
    answer = service.request("POST", path, json=body)
    assert answer.status_code == 503
    assert f"The package of function {function} is not in the package storage" in answer.json()["faultstring"]
    assert "PACKAGE_STORAGE=swift" in answer.json()["faultstring"], "what several machines need"
    download = service.request("GET", f"/v1/functions/{function}?download=true")
    assert download.status_code == 503
    assert "PACKAGE_STORAGE=swift" in download.json()["faultstring"]
    assert f'"a package is not in the package storage", "package": "{lost.stem}' in service.logs()
    files = {"package": ("f.zip", package(main=HELLO), "application/zip")}
    assert service.request("PUT", f"/v1/functions/{function}", files=files).status_code == 200
    assert service.request("POST", path, json=body).status_code == (201 if act == "call" else 202)
    assert output_of(service.call(function)) == "Hello, World"


def test_runtime_with_an_unknown_image_ends_in_error_with_the_reason(service: Service) -> None:
    answer = service.request("POST", "/v1/runtimes", json={"image": "no/such-image", "name": "broken"})
    runtime_id = answer.json()["id"]
    wait_until(
        "it is in error", lambda: service.request("GET", f"/v1/runtimes/{runtime_id}").json()["status"] == "error"
    )
    assert "no/such-image" in service.request("GET", f"/v1/runtimes/{runtime_id}").json()["status_reason"]
    assert service.upload(HELLO, runtime_id=runtime_id).status_code == 409
    assert service.request("DELETE", f"/v1/runtimes/{runtime_id}").status_code == 204
    wait_until("it is gone", lambda: service.request("GET", f"/v1/runtimes/{runtime_id}").status_code == 404)


def test_runtime_is_deleted_with_its_pool_once_no_function_uses_it(service: Service) -> None:
    answer = service.request("POST", "/v1/runtimes", json={"image": "python3", "name": "second"})
    runtime_id = answer.json()["id"]
    wait_until(
        "available", lambda: service.request("GET", f"/v1/runtimes/{runtime_id}").json()["status"] == "available"
    )
    function = service.function(HELLO, runtime_id=runtime_id)
    service.call(function)
    assert service.request("DELETE", f"/v1/runtimes/{runtime_id}").status_code == 403
    service.request("DELETE", f"/v1/functions/{function}")
    assert service.request("DELETE", f"/v1/runtimes/{runtime_id}").status_code == 204
    wait_until("it is gone", lambda: service.request("GET", f"/v1/runtimes/{runtime_id}").status_code == 404)
    assert service.request("GET", f"/v1/runtimes/{runtime_id}/pool").status_code == 404


def test_updated_image_takes_over_and_a_failing_one_leaves_the_old(service: Service) -> None:
    answer = service.request("POST", "/v1/runtimes", json={"image": "python3", "name": "third"})
    runtime_id = answer.json()["id"]

    def status() -> str:
        return str(service.request("GET", f"/v1/runtimes/{runtime_id}").json()["status"])

    wait_until("available", lambda: status() == "available")
    function = service.function("def main(): return 'served'\n", runtime_id=runtime_id)
    for image, kept in (
        ("openstackqinling/python3-runtime", "openstackqinling/python3-runtime"),
        ("no/such", "openstackqinling/python3-runtime"),
    ):
        assert service.request("PUT", f"/v1/runtimes/{runtime_id}", json={"image": image}).status_code == 200
        wait_until("available again", lambda: status() == "available")
        assert service.request("GET", f"/v1/runtimes/{runtime_id}").json()["image"] == kept
        assert output_of(service.call(function)) == "served"


def test_concurrent_creates_calls_and_deletes_give_no_server_error(service: Service) -> None:
    function = service.function(HELLO)

    def act(number: int) -> int:
        if number % 3 == 0:
            return service.upload(HELLO).status_code
        if number % 3 == 1:
            return service.request("POST", "/v1/executions", json={"function_id": function}).status_code
        return service.request("DELETE", f"/v1/functions/{uuid.uuid4()}").status_code

    with ThreadPoolExecutor(8) as callers:
        assert set(callers.map(act, range(48))) == {201, 404}
