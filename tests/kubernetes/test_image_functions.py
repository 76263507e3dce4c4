"""Functions from images: each execution runs in a pod of its own, which is always removed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.client.driver import Client, running_driver
from tests.integration.service import Service, running_service, wait_until
from tests.kubernetes.namespaces import Namespace

IMAGE = os.environ.get("KUBERNETES_TEST_IMAGE", "localhost/python:3.11")
FUNCTION, EXECUTION = "qinling-falcon/function", "qinling-falcon/execution"
MIB = 1 << 20
# A busy node may take most of a minute to remove a pod whose container had to be ended.
GONE_S = 150
FOREVER = "import time\nprint('it runs', flush=True)\ntime.sleep(600)"


@pytest.fixture(scope="module")
def service(namespace: Namespace) -> Iterator[Service]:
    settings = namespace.settings() | {"warm_workers": 0, "max_workers": 8, "kubernetes_pod_grace_s": 1}
    with running_service(**settings, with_workers=True, reap_interval_s=0.5) as running:
        yield running
        wait_until("all pods are gone", lambda: not uids(namespace), GONE_S)
        wait_until("no worker is known", lambda: running.request("GET", "/v1/pool/workers").json() == [])


def uids(namespace: Namespace) -> set[str]:
    """The uids of all pods, also of those that are being deleted."""
    return {pod.metadata.uid for pod in namespace.core.list_namespaced_pod(namespace.name).items}


def pods_of(namespace: Namespace, function_id: str) -> list[Any]:
    """The pods of a function that are not being deleted."""
    return [pod for pod in namespace.pods("single-use") if pod.metadata.labels[FUNCTION] == function_id]


def execution_of(pod: Any) -> str:
    """The execution that a pod runs."""
    return str(pod.metadata.labels[EXECUTION])


def make(service: Service, image: str = IMAGE, **fields: Any) -> str:
    """A function from an image."""
    body = {"name": "f", "code": {"source": "image", "image": image}, "timeout": 60, "cpu": 300, **fields}
    answer = service.request("POST", "/v1/functions", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def python(source: str) -> str:
    """The input for a program in Python."""
    return json.dumps(["python3", "-c", source])


def is_running(namespace: Namespace, execution_id: str) -> bool:
    """Whether the program of an execution has begun."""
    for pod in namespace.pods("single-use"):
        if pod.metadata.name == f"execution-{execution_id}" and pod.status.phase == "Running":
            return "it runs" in namespace.core.read_namespaced_pod_log(pod.metadata.name, namespace.name)
    return False


def cancel(service: Service, execution_id: str) -> None:
    answer = service.request("PUT", f"/v1/executions/{execution_id}", json={"status": "cancelled"})
    assert answer.status_code == 202, answer.text


def test_an_execution_gets_its_arguments_and_has_the_log_of_its_pod(service: Service) -> None:
    function = make(service)
    source = "import os, sys\nprint(sys.argv[1:], os.getuid(), sorted(os.environ))\nopen('/tmp/x', 'w')"

    execution = service.call(function, json.dumps(["python3", "-c", source, "a b", "$(HOME) $$ ü", 7]))

    assert execution["status"] == "success", execution
    assert list(json.loads(execution["result"])) == ["duration"]
    log = service.log_of(execution)
    assert log.startswith("['a b', '$(HOME) $$ ü', '7'] 10000 "), log
    assert "SECRET" not in log and "REDIS" not in log


def test_the_words_of_a_text_are_arguments(service: Service) -> None:
    execution = service.call(make(service), "python3 -c print(21*2)")

    assert (execution["status"], service.log_of(execution)) == ("success", "42\n"), execution


def test_the_real_client_makes_and_runs_one(service: Service) -> None:
    with running_driver(service.url) as driver:
        client = Client(driver, session=False)
        made = client.functions.create(name="f", code={"source": "image", "image": IMAGE}, timeout=60)
        execution = client.function_executions.create(made["id"], input="python3 -c print('hello')")

    assert execution["status"] == "success", execution
    assert service.log_of(execution) == "hello\n"


def test_a_program_that_fails(service: Service) -> None:
    execution = service.call(make(service), python("import sys\nprint('so far')\nsys.exit(3)"))

    assert execution["status"] == "failed"
    assert execution["status_reason"] == "The function's container ended with exit status 3."
    assert json.loads(execution["result"])["output"] == execution["status_reason"]
    assert service.log_of(execution) == "so far\n"


def test_a_program_that_takes_too_long_is_ended(service: Service, namespace: Namespace) -> None:
    execution = service.call(make(service, timeout=2), python(FOREVER))

    result = json.loads(execution["result"])
    assert (execution["status"], result["output"]) == ("failed", "Function execution timeout"), execution
    assert result["duration"] >= 2
    assert execution["status_reason"] == "The function ran longer than its timeout of 2 s."
    assert service.log_of(execution) == "it runs\n"


def test_a_program_that_takes_too_much_memory(service: Service) -> None:
    execution = service.call(make(service, memory_size=32 * MIB), python("print('x', flush=True)\nx = b'x' * 10**9"))

    assert execution["status"] == "failed"
    assert execution["status_reason"] == "The function used more than its memory_size of 33554432 bytes (32 MiB)."
    output = "Function execution failed because of too much resource consumption"
    assert json.loads(execution["result"])["output"] == output


def test_a_long_log_is_cut(service: Service) -> None:
    execution = service.call(make(service), python("print('x' * 300_000)"))

    log = service.log_of(execution)
    assert len(log) < 257 * 1024
    assert "log cut" in log


@pytest.mark.parametrize(
    ("image", "told"),
    [("localhost/no-such-image:1", "ErrImageNeverPull"), ("Not An Image", "can't be the name of an image")],
)
def test_an_image_that_can_not_be_run(service: Service, image: str, told: str) -> None:
    execution = service.call(make(service, image))

    assert execution["status"] == "failed"
    assert execution["status_reason"].startswith(f"Image {image!r} can't be run. ")
    assert told in execution["status_reason"]
    assert service.log_of(execution) == ""


def test_a_program_that_the_image_does_not_have(service: Service) -> None:
    execution = service.call(make(service), "no-such-program")

    assert execution["status"] == "failed"
    assert "no-such-program" in execution["status_reason"]


def test_a_call_that_the_cluster_has_no_room_for_has_not_run(service: Service, namespace: Namespace) -> None:
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    namespace.core.create_namespaced_resource_quota(namespace.name, quota)
    wait_until("it holds", lambda: namespace.core.read_namespaced_resource_quota("none", namespace.name).status.hard)
    body = {"function_id": make(service), "input": "true"}
    try:
        answer = service.request("POST", "/v1/executions", json=body)
    finally:
        namespace.core.delete_namespaced_resource_quota("none", namespace.name)

    assert answer.status_code == 503, answer.text
    assert "quota of resources is used up" in answer.text
    assert answer.headers["Retry-After"]
    assert service.request("GET", "/v1/executions", params={"function_id": body["function_id"]}).json() == []


def test_a_cancelled_execution_is_ended(service: Service, namespace: Namespace) -> None:
    function = make(service)
    execution_id = service.accept(function, python(FOREVER))
    wait_until("it runs", lambda: is_running(namespace, execution_id))

    cancel(service, execution_id)

    assert service.execution(execution_id)["status"] == "cancelled"
    wait_until("its pod is deleted", lambda: not pods_of(namespace, function))


def test_a_failed_attempt_is_followed_by_another_one(service: Service) -> None:
    function = make(service, max_attempts=2, backoff_s=0)

    execution = service.ended(service.accept(function, python("raise SystemExit(1)")))

    assert (execution["status"], execution["attempt"]) == ("dead", 2), execution
    assert "exit status 1" in execution["status_reason"]


def test_the_concurrency_of_a_function_limits_its_pods(service: Service, namespace: Namespace) -> None:
    function = make(service, concurrency=1)
    ids = [service.accept(function, python("import time\ntime.sleep(1)")) for _ in range(3)]
    most = 0

    def have_ended() -> bool:
        nonlocal most
        running = [execution_of(pod) for pod in pods_of(namespace, function) if pod.status.phase == "Running"]
        most = max(most, sum(service.execution(execution_id)["status"] == "running" for execution_id in running))
        return all(service.execution(execution_id)["status"] == "success" for execution_id in ids)

    wait_until("all have ended", have_ended, 120)
    assert most == 1


def test_a_pod_that_is_deleted_by_hand_is_a_lost_worker(service: Service, namespace: Namespace) -> None:
    function = make(service)
    execution_id = service.accept(function, python(FOREVER))
    wait_until("it runs", lambda: is_running(namespace, execution_id))
    [pod] = pods_of(namespace, function)

    namespace.core.delete_namespaced_pod(pod.metadata.name, namespace.name, grace_period_seconds=1)

    wait_until("it is gone", lambda: pod.metadata.uid not in uids(namespace), GONE_S)
    wait_until("it runs again", lambda: is_running(namespace, execution_id), GONE_S)
    execution = service.execution(execution_id)
    assert (execution["status"], execution["attempt"]) == ("running", 2)
    cancel(service, execution_id)


def test_after_the_kill_of_its_process_an_execution_runs_again(service: Service, namespace: Namespace) -> None:
    function = make(service)
    execution_id = service.accept(function, python(FOREVER))
    wait_until("it runs", lambda: is_running(namespace, execution_id))
    [pod] = pods_of(namespace, function)

    service.stop("worker", signal.SIGKILL)

    wait_until("its pod is gone", lambda: pod.metadata.uid not in uids(namespace), GONE_S)
    service.start_module("worker", "workers.worker")
    wait_until("it runs again", lambda: is_running(namespace, execution_id), GONE_S)
    assert service.execution(execution_id)["attempt"] == 2
    cancel(service, execution_id)


def test_after_the_kill_of_its_process_a_call_has_ended(service: Service, namespace: Namespace) -> None:
    function = make(service)
    body = {"function_id": function, "input": python(FOREVER)}

    def call() -> None:
        with contextlib.suppress(requests.ConnectionError):
            requests.post(f"{service.url}/v1/executions", json=body, timeout=60)

    caller = threading.Thread(target=call)
    caller.start()
    [pod] = wait_until("its pod is made", lambda: pods_of(namespace, function))
    execution_id = execution_of(pod)
    wait_until("it runs", lambda: is_running(namespace, execution_id))
    for pid in service.web_processes():
        os.kill(pid, signal.SIGKILL)
    caller.join()

    wait_until("its pod is gone", lambda: pod.metadata.uid not in uids(namespace), GONE_S)
    wait_until("web serves", lambda: service.request("GET", "/readyz").status_code == 200)
    execution = service.ended(execution_id)
    assert execution["status"] == "error"
    assert "was lost" in execution["status_reason"]
