"""Processes of workers in pods are killed: calls go on, and each worker of the pool has one pod."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.integration.service import Service, wait_until
from tests.kubernetes.namespaces import Namespace
from tests.kubernetes.pod_processes import processes_of

pytestmark = pytest.mark.skipif("KUBERNETES_OUTER_PID" not in os.environ, reason="kills processes of the node")

CODE = "def main():\n    return 'fine'\n"
# Ids of processes in the PID namespace of the container; the function's process is the first child of the template.
PARTS = ("supervisor", "template", "function")


def worker_of(pod: Any) -> str:
    """The id of the worker in a pod."""
    return str(pod.metadata.labels["qinling-falcon/worker"])


@pytest.mark.parametrize("part", PARTS)
def test_a_killed_process_costs_no_later_call(service: Service, namespace: Namespace, part: str) -> None:
    function = service.function(CODE)

    def is_served() -> bool:
        answer = service.request("POST", "/v1/executions", json={"function_id": function})
        return bool(answer.status_code == 201 and answer.json()["status"] == "success")

    def processes() -> list[int]:
        """All processes of a worker that has just served a call. One that is about to end has fewer."""
        if not is_served():
            return []
        [worker] = service.request("GET", f"/v1/functions/{function}/workers").json() or [None]
        pods = [pod for pod in namespace.pods("taken") if worker and worker["worker_name"] == worker_of(pod)]
        found = processes_of(pods[0].metadata.uid) if pods else []
        return found if len(found) == len(PARTS) else []

    for _ in range(3):
        worker = wait_until("a worker has served a call", processes)
        os.kill(worker[PARTS.index(part)], signal.SIGKILL)
        wait_until("calls are served", is_served)

    def is_right() -> bool:
        rows = service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()
        return sorted(map(worker_of, namespace.pods("taken"))) == sorted(row["id"] for row in rows)

    wait_until("each worker has one pod", is_right, 60)
