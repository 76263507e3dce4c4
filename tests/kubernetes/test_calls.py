"""A function is created and called through pods."""

from __future__ import annotations

import json

from tests.integration.service import Service, wait_until
from tests.kubernetes.namespaces import Namespace

HELLO = "def main(name='World'):\n    print('saying hello')\n    return 'Hello, ' + name\n"


def test_a_call_runs_in_a_pod_and_is_recorded(service: Service, namespace: Namespace) -> None:
    function = service.function(HELLO)

    execution = service.call(function, {"name": "Ada"})

    assert execution["status"] == "success", execution
    assert json.loads(execution["result"])["output"] == "Hello, Ada"
    assert "saying hello" in service.log_of(execution)
    [worker] = service.request("GET", f"/v1/functions/{function}/workers").json()
    assert namespace.worker_pod(worker["worker_name"])


def test_a_worker_serves_its_next_call_with_its_module_state(service: Service) -> None:
    function = service.function("calls = 0\ndef main():\n    global calls\n    calls += 1\n    return calls\n")

    outputs = [json.loads(service.call(function)["result"])["output"] for _ in range(3)]

    assert outputs == [1, 2, 3]


def test_the_deployment_replaces_a_pod_that_became_a_worker(service: Service, namespace: Namespace) -> None:
    service.call(service.function(HELLO))

    wait_until("two pods are spare again", lambda: len(namespace.pods("spare")) == 2)
    for pod in namespace.pods("taken"):
        assert pod.metadata.owner_references is None
