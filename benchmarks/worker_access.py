"""Measures starts and warm calls of workers in pods: by the pod's address, by a node port, and through the API server.

    python -m benchmarks.worker_access [--rounds 5] [--seconds 2]

It starts a throw-away cluster (see `tests/kubernetes`), and calls in the node's network, so that a call by the pod's
address is possible. The clients are those of `web`. One of them sends one call after another; rounds are interleaved.
"""

from __future__ import annotations

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import argparse
import itertools
import logging
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import HELLO, ROOT, save
from qinling_falcon.invocation.worker_client import Execution, WorkerClient
from qinling_falcon.orchestrators.base import RuntimeImage, WorkerInfo
from qinling_falcon.orchestrators.kubernetes.orchestrator import KubernetesOrchestrator
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import package, wait_until
from tests.kubernetes.access import IN_CLUSTER
from tests.kubernetes.clusters import running_cluster
from tests.kubernetes.namespaces import Namespace, new_namespace

ACCESSES = ("pod", "node-port", "api-proxy")
RUNTIME = RuntimeImage("00000000-0000-0000-0000-000000000001", "python3")
STARTS = 5
ABOUT = {"target": "f:0:x", "entry": "main.main", "memory_size": 128 << 20, "cpu": 1000, "isolation": "warm"}


class Caller:
    """Calls one worker.

    Args:
        settings: how it is reached.
        worker: the worker.
    """

    def __init__(self, settings: Settings, worker: WorkerInfo):
        self._client = WorkerClient(settings)
        self._worker = worker
        self._tokens = itertools.count(1)
        self._client.load(self._leased(), package(main=HELLO), ABOUT, 30)

    def calls(self, seconds: float) -> list[float]:
        """How long each call took that was made in these seconds, in ms."""
        taken = []
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            ran = self._client.execute(self._leased(), Execution("e", 5, {"context": {}}, None), 10)
            assert ran.status == "success", ran
            taken.append((time.perf_counter() - now) * 1000)
        return taken

    def _leased(self) -> LeasedWorker:
        worker = self._worker
        return LeasedWorker(worker.worker_id, worker.address, worker.secret, next(self._tokens), needs_load=False)


def main() -> None:
    """Start the cluster, and measure in its network."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2)
    options = arguments.parse_args()
    if "KUBERNETES_CONFIG" in os.environ:
        measure(options.rounds, options.seconds)
        return
    with running_cluster("node") as cluster:
        environ = os.environ | {
            "ORCHESTRATOR": "kubernetes",
            "KUBERNETES_CONFIG": str(cluster.inner_kubeconfig()),
            "KUBERNETES_IMAGE_PREFIX": "localhost/",
            "KUBERNETES_PULL_POLICY": "Never",
        }
        command = [*cluster.enter(), sys.executable, "-m", "benchmarks.worker_access", *sys.argv[1:]]
        sys.exit(subprocess.run(command, cwd=ROOT, env=environ).returncode)


def measure(rounds: int, seconds: float) -> None:
    """Measure on the cluster of `KUBERNETES_CONFIG`, and print the medians."""
    logging.disable(logging.ERROR)
    found: dict[str, list[float]] = {}
    with new_namespace(*IN_CLUSTER, "qinling-node-port", "qinling-api-proxy") as namespace:
        given = {name.upper(): str(value) for name, value in namespace.settings().items()}
        callers = {}
        for access in ACCESSES:
            settings = read_settings(os.environ | given | {"KUBERNETES_WORKER_ACCESS": access})
            found[f"{access} start ms"], worker = start(settings, access, namespace)
            callers[access] = Caller(settings, worker)
        for caller in callers.values():
            caller.calls(0.5)
        for _ in range(rounds):
            for access, caller in callers.items():
                taken = sorted(caller.calls(seconds))
                found.setdefault(f"{access} p50 ms", []).append(statistics.median(taken))
                found.setdefault(f"{access} p99 ms", []).append(taken[len(taken) * 99 // 100])
                found.setdefault(f"{access} calls/s", []).append(len(taken) / seconds)
    for name, values in found.items():
        print(f"{name:<24}{statistics.median(values):>10.3f}")
    save("worker_access", {"rounds": found})


def start(settings: Settings, access: str, namespace: Namespace) -> tuple[list[float], WorkerInfo]:
    """Start workers that are reached as the settings say.

    Returns:
        How long each start from a spare pod took, in ms, and the last worker.
    """
    orchestrator = KubernetesOrchestrator(settings)
    taken = []

    def is_prepared() -> bool:
        orchestrator.prepare([RUNTIME])
        ready = [pod for pod in namespace.pods("spare") if is_ready(pod)]
        return len(ready) == settings.kubernetes_spare_pods

    try:
        for number in range(STARTS):
            wait_until("the spare pods are ready", is_prepared, 90)
            began = time.perf_counter()
            worker = orchestrator.start(f"{access}-{number}", RUNTIME.image, RUNTIME.runtime_id)
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        orchestrator.detach()
    return taken, worker


def is_ready(pod: Any) -> bool:
    return any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions or ())


if __name__ == "__main__":
    main()
