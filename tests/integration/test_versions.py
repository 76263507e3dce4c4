"""Versions, aliases and scaling on real workers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor as threads
from typing import Any

import pytest
import requests

from tests.integration.service import Service, package, running_service, wait_until

pytestmark = pytest.mark.xdist_group("integration-versions")


def says(number: int) -> str:
    return f"def main():\n    return {number}\n"


def update(service: Service, function_id: str, source: str) -> None:
    files = {"package": ("f.zip", package(main=source), "application/zip")}
    answer = service.request("PUT", f"/v1/functions/{function_id}", files=files)
    assert answer.status_code == 200, answer.text


def make_version(service: Service, function_id: str) -> int:
    answer = service.request("POST", f"/v1/functions/{function_id}/versions", json={})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["version_number"])


def output_of(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "success", execution
    return json.loads(execution["result"])["output"]


def workers(service: Service, function_id: str, version: int = 0) -> list[str]:
    query = {"function_version": version}
    rows = service.request("GET", f"/v1/functions/{function_id}/workers", params=query).json()
    assert all((row["function_id"], row["function_version"]) == (function_id, version) for row in rows)
    return [row["worker_name"] for row in rows]


def call(service: Service, function_id: str, input: str | None = None) -> dict[str, Any]:
    """As `Service.call`, on a connection of its own."""
    body = {"function_id": function_id, "input": input}
    answer = requests.post(f"{service.url}/v1/executions", json=body, timeout=60)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def listed(service: Service, **query: str) -> list[dict[str, Any]]:
    return list(service.request("GET", "/v1/executions", params=query).json())


def test_each_version_runs_its_own_code_in_its_own_workers(service: Service) -> None:
    function_id = service.function(says(1))
    assert make_version(service, function_id) == 1
    update(service, function_id, says(2))
    assert make_version(service, function_id) == 2
    update(service, function_id, says(3))

    for version, number in ((0, 3), (1, 1), (2, 2), (1, 1)):
        execution = service.call(function_id, function_version=version)
        assert (execution["function_version"], output_of(execution)) == (version, number)
    held = [workers(service, function_id, version) for version in (0, 1, 2)]
    assert [len(names) for names in held] == [1, 1, 1]
    assert len({name for names in held for name in names}) == 3

    update(service, function_id, says(4))
    assert workers(service, function_id) == []  # only version 0 has changed
    assert service.call(function_id, function_version=1)["cold"] == "none"
    assert output_of(service.call(function_id)) == 4
    shown = service.request("GET", f"/v1/functions/{function_id}/versions/1").json()
    assert shown["count"] == 3


def test_a_deleted_version_takes_its_workers_along(service: Service) -> None:
    function_id = service.function(says(1))
    make_version(service, function_id)
    service.call(function_id, function_version=1)
    answer = service.request("DELETE", f"/v1/functions/{function_id}/versions/1")
    assert answer.status_code == 204
    refused = service.request("POST", "/v1/executions", json={"function_id": function_id, "function_version": 1})
    assert refused.status_code == 404
    assert output_of(service.call(function_id)) == 1


def test_calls_by_alias_follow_it(service: Service) -> None:
    function_id = service.function(says(1))
    make_version(service, function_id)
    update(service, function_id, says(2))
    make_version(service, function_id)
    alias = {"name": "follow me", "function_id": function_id, "function_version": 1}
    assert service.request("POST", "/v1/aliases", json=alias).status_code == 201
    for version in (1, 2, 1):
        answer = service.request("PUT", "/v1/aliases/follow%20me", json={"function_version": version})
        assert answer.status_code == 202
        for _ in range(4):
            answer = service.request("POST", "/v1/executions", json={"function_alias": "follow me"})
            execution = answer.json()
            assert (execution["function_version"], output_of(execution)) == (version, version)
            assert (execution["function_alias"], execution["function_id"]) == ("follow me", function_id)
    found = service.request("GET", "/v1/executions", params={"function_alias": "follow me"}).json()
    assert len(found) == 12


def test_an_image_function_s_execution_ends_in_error_with_the_reason(service: Service) -> None:
    body = {"name": "i", "code": {"source": "image", "image": "docker-registry/hello-world"}}
    function_id = service.request("POST", "/v1/functions", json=body).json()["id"]
    execution = service.call(function_id)
    assert execution["status"] == "error"
    assert "Kubernetes" in execution["status_reason"]
    assert json.loads(execution["result"])["output"] == "Function execution failed."
    assert service.request("GET", f"/v1/functions/{function_id}").json()["count"] == 1
    assert service.request("GET", f"/v1/functions/{function_id}/workers").json() == []
    assert service.request("POST", f"/v1/functions/{function_id}/scale_up").status_code == 403


def test_scaled_workers_are_loaded_and_serve_at_once(service: Service) -> None:
    source = "import time\ndef main():\n    time.sleep(.3)\n"
    function_id = service.function(source)
    service.call(function_id)
    answer = service.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 3})
    assert (answer.status_code, answer.content) == (202, b"")
    assert answer.headers["Location"].endswith(f"/v1/functions/{function_id}")
    assert len(workers(service, function_id)) == 4
    with threads(4) as background:
        together = list(background.map(lambda _: call(service, function_id), range(4)))
    assert [execution["cold"] for execution in together] == ["none"] * 4

    answer = service.request("POST", f"/v1/functions/{function_id}/scale_down", json={"count": "2"})
    assert answer.status_code == 202
    assert len(workers(service, function_id)) == 2
    assert service.request("POST", f"/v1/functions/{function_id}/scale_down").status_code == 202  # by one
    for count in (1, 5):  # never the last one
        body = {"count": count}
        assert service.request("POST", f"/v1/functions/{function_id}/scale_down", json=body).status_code == 202
        assert len(workers(service, function_id)) == 1
    assert service.call(function_id)["cold"] == "none"


def test_versions_are_scaled_on_their_own(service: Service) -> None:
    function_id = service.function(says(1))
    make_version(service, function_id)
    path = f"/v1/functions/{function_id}/versions/1"
    assert service.request("POST", f"{path}/scale_up", json={"count": 2}).status_code == 202
    assert (len(workers(service, function_id, 1)), workers(service, function_id)) == (2, [])
    assert service.call(function_id, function_version=1)["cold"] == "none"
    assert service.request("POST", f"{path}/detach").status_code == 202
    assert workers(service, function_id, 1) == []
    assert service.request("POST", f"/v1/functions/{function_id}/versions/0/scale_up").status_code == 202
    assert len(workers(service, function_id)) == 1


@pytest.mark.parametrize("count", [0, -1, 13, "many", 1.5, None, [], True])
def test_a_count_that_makes_no_sense_is_refused(service: Service, count: Any) -> None:
    function_id = service.function(says(1))
    for act in ("scale_up", "scale_down"):
        answer = service.request("POST", f"/v1/functions/{function_id}/{act}", json={"count": count})
        makes_sense = count is None or (act, count) == ("scale_down", 13)  # the last worker stays, whatever the count
        assert answer.status_code == (202 if makes_sense else 400), answer.text
        if not makes_sense:
            assert "count" in answer.json()["errors"]


def wait_for_stock(service: Service, workers: int) -> None:
    """Wait for warm workers, so that what comes next takes them and waits for no start."""
    runtime_id = service.runtime()
    wait_until("the stock is full", lambda: service.capacity(runtime_id)["available"] == workers)


def test_scaling_up_says_when_there_is_no_room() -> None:
    with running_service(max_workers=2, warm_workers=2, invoke_queue_timeout_s=1) as small, threads(2) as background:
        wait_for_stock(small, 2)
        sleeper = small.function("import time\ndef main():\n    time.sleep(5)\n", timeout=10)
        slow = background.submit(call, small, sleeper)
        wait_until("it runs", lambda: listed(small, function_id=sleeper, status="running"))
        function_id = small.function(says(1))
        answer = small.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 2})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "1 of 2 workers were added" in answer.json()["faultstring"]
        assert len(workers(small, function_id)) == 1
        assert slow.result()["status"] == "success"


def test_scaling_up_costs_the_function_none_of_its_own_workers() -> None:
    """Neither at once, nor when they have been unused for long enough to make room for the stock."""
    with running_service(max_workers=4, warm_workers=4, invoke_queue_timeout_s=4) as small:
        function_id = small.function(says(1))
        path = f"/v1/functions/{function_id}/scale_up"
        wait_for_stock(small, 4)
        assert small.request("POST", path, json={"count": 4}).status_code == 202
        before = workers(small, function_id)
        assert len(before) == 4
        answer = small.request("POST", path, json={"count": 2})
        assert answer.status_code == 503
        assert "0 of 2 workers were added" in answer.json()["faultstring"]
        assert set(workers(small, function_id)) <= set(before)


def test_scaling_up_what_is_deleted_meanwhile_says_so(service: Service) -> None:
    function_id = service.function(says(1))
    with threads(1) as background:
        body = {"count": 12}
        url = f"{service.url}/v1/functions/{function_id}/scale_up"
        scaling = background.submit(lambda: requests.post(url, json=body, timeout=60))
        wait_until("the first is there", lambda: workers(service, function_id))
        assert service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204
        answer = scaling.result()
    assert answer.status_code == 404, answer.text
    assert "Traceback" not in service.logs()


def test_scaled_workers_hold_the_code_of_an_update_that_came_meanwhile(service: Service) -> None:
    function_id = service.function(says(1))
    with threads(1) as background:
        url = f"{service.url}/v1/functions/{function_id}/scale_up"
        scaling = background.submit(lambda: requests.post(url, json={"count": 8}, timeout=60))
        wait_until("the first is there", lambda: workers(service, function_id))
        update(service, function_id, says(2))
        assert scaling.result().status_code == 202
    assert output_of(service.call(function_id)) == 2


def test_calls_that_last_are_listed_while_they_run(service: Service) -> None:
    function_id = service.function("import time\ndef main(text):\n    print('on')\n    time.sleep(2.5)\n")
    with threads(1) as background:
        slow = background.submit(call, service, function_id, "x")
        (running,) = wait_until("it is listed", lambda: listed(service, function_id=function_id, status="running"))
        assert (running["result"], running["updated_at"], running["input"]) == (None, None, "x")
        execution = slow.result()
    assert execution["id"] == running["id"]
    assert listed(service, function_id=function_id) == [execution]
    assert service.request("GET", f"/v1/functions/{function_id}").json()["count"] == 1
    assert "on\n" in service.log_of(execution)


def test_detached_workers_go_after_their_call(service: Service) -> None:
    source = "import os, time\nME = os.urandom(8).hex()\ndef main(slow=None):\n"
    source += "    time.sleep(2.5 if slow else 0)\n    return ME\n"
    function_id = service.function(source)
    service.call(function_id)
    before = workers(service, function_id)
    with threads(1) as background:
        slow = background.submit(call, service, function_id, "slow")
        wait_until("it runs", lambda: listed(service, function_id=function_id, status="running"))
        answer = service.request("POST", f"/v1/functions/{function_id}/detach")
        assert (answer.status_code, answer.content) == (202, b"")
        assert workers(service, function_id) == []
        fresh = service.call(function_id)
        assert fresh["cold"] != "none"
    assert output_of(slow.result()) != output_of(fresh)
    assert not set(before) & set(workers(service, function_id))
