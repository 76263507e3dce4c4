"""Functions for tests of faults, and checks that a service is right again."""

from __future__ import annotations

import json
from typing import Any

import requests

from tests.integration.service import Service, wait_until
from tests.kubernetes.namespaces import Namespace

HELLO = "def main(name='World'):\n    return 'Hello, ' + name\n"
SLEEP = "import time\ndef main(seconds):\n    time.sleep(seconds)\n    return 'slept'\n"


def output_of(execution: dict[str, Any]) -> Any:
    """What the function returned."""
    assert execution["status"] == "success", execution
    return json.loads(execution["result"])["output"]


def server_of(service: Service) -> dict[str, Any]:
    """What the pool says of the API server."""
    return dict(service.request("GET", "/v1/pool").json()["host"]["server"])


def workers_of(service: Service) -> set[str]:
    """The ids of all workers that the pool knows."""
    return {row["id"] for row in service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()}


def check_ownership(service: Service, namespace: Namespace) -> None:
    """Wait until each worker of the pool has one pod, and each pod that is not spare belongs to a worker."""

    def is_right() -> bool:
        pods = [pod.metadata.labels["qinling-falcon/worker"] for pod in namespace.pods("taken")]
        return sorted(pods) == sorted(workers_of(service)) and len(namespace.pods("spare")) == 2

    try:
        wait_until("pods and workers agree", is_right, 90)
    except AssertionError:
        pods = [(pod.metadata.name, pod.metadata.labels, pod.status.phase) for pod in namespace.pods()]
        raise AssertionError(f"{pods}\n{workers_of(service)}\n{service.logs()}") from None


def retried(service: Service, function: str, input: Any = None) -> dict[str, Any]:
    """Call a function, again while there is no free worker."""

    def call() -> dict[str, Any] | None:
        body = {"function_id": function, "input": input}
        answer = requests.post(f"{service.url}/v1/executions", json=body, timeout=60)
        return dict(answer.json()) if answer.status_code == 201 and answer.json()["status"] == "success" else None

    try:
        return dict(wait_until("a call succeeds", call, 90))
    except AssertionError:
        raise AssertionError(service.logs()) from None
