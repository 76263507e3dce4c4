"""A pool of 1,000 workers in pods: what a lease costs, and what the pool manager costs when nothing changes.

    python -m benchmarks.kubernetes_pool [--workers 1000]

The API server, the controllers and the scheduler are real; see tests/kubernetes/clusters.py. The nodes are simulated:
they report each pod as running, and run nothing. One server in this process answers for all workers. The same is
measured with ten workers. Ends with status 1 when a bound is missed.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from cryptography.fernet import Fernet
from gevent.pywsgi import WSGIServer

from benchmarks.measure import save
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import Service, running_service, wait_until
from tests.kubernetes.clusters import TOOLS, Cluster, running_cluster, why_not

MOST = {"lease_ratio": 1.3, "manager_cpu_share": 0.1}
_FEW = 10
_NODES = 2
_LEASES = 3000
_QUIET_S = 60.0
_PORT = 9090


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    options = parser.parse_args()
    reason = why_not()
    if reason is not None:
        sys.exit(f"no cluster can be started: {reason}")
    with running_cluster("control") as cluster, simulated_nodes(cluster), answering_workers():
        few = measure(cluster, _FEW)
        many = measure(cluster, options.workers)
    found = {f"{name}_{_FEW}": value for name, value in few.items()}
    found |= {f"{name}_{options.workers}": value for name, value in many.items()}
    found |= {
        "lease_ratio": many["lease_p50_ms"] / few["lease_p50_ms"],
        "manager_cpu_share": many["manager_cpu_share"],
    }
    missed = [name for name, most in MOST.items() if found[name] > most]
    for name, value in found.items():
        bound = f" (at most {MOST[name]})" if name in MOST else ""
        print(f"{name}: {value:.3f}{bound}{' MISSED' if name in missed else ''}")
    save("kubernetes_pool", found)
    sys.exit(bool(missed))


@contextmanager
def simulated_nodes(cluster: Cluster) -> Iterator[None]:
    """Nodes that report pods as running."""
    nodes = [
        subprocess.Popen([sys.executable, TOOLS / "fakenode.py", cluster.folder, "--name", f"simulated{number}"])
        for number in range(_NODES)
    ]
    try:
        yield
    finally:
        for node in nodes:
            node.terminate()
            node.wait()


@contextmanager
def answering_workers() -> Iterator[None]:
    """A server that answers `GET /ping` as a warm worker does, for all simulated pods."""

    def answer(_environ: object, start_response: object) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])  # type: ignore[operator]
        return [b'{"ready": true, "loaded": false, "busy": false}']

    server = WSGIServer(("127.0.0.1", _PORT), answer, log=None)
    server.start()
    try:
        yield
    finally:
        server.stop()


def measure(cluster: Cluster, workers: int) -> dict[str, float]:
    """Fill a pool of its own, let it rest, and lease workers."""
    namespace = f"simulated-{workers}"
    kubectl(cluster, "create", "namespace", namespace)
    settings = {
        "orchestrator": "kubernetes",
        "kubernetes_config": cluster.kubeconfig,
        "kubernetes_namespace": namespace,
        "secret_keys": Fernet.generate_key().decode(),
        "max_workers": workers + 8,
        "warm_workers": workers,
    }
    with running_service(new_interpreters=True, **settings) as service:
        began = time.monotonic()
        runtime_id = service.runtime()
        wait_until(f"{workers} workers are warm", lambda: warm(service) >= workers, 1200)
        filled_s = time.monotonic() - began
        wait_until("all starts have ended", lambda: starting(service) == 0, 120)
        manager = psutil.Process(service.processes["pool"].pid)
        time.sleep(5)
        before, since = sum(manager.cpu_times()[:2]), time.monotonic()
        time.sleep(_QUIET_S)
        cpu_share = (sum(manager.cpu_times()[:2]) - before) / (time.monotonic() - since)
        requests = state(service)["host"]["server"]["requests_per_minute"]
        lease_ms = leases(service, runtime_id)
        memory_mib = manager.memory_info().rss / 2**20
    kubectl(cluster, "delete", "namespace", namespace, "--wait=false")
    lease_ms.sort()
    print(f"{workers} workers: filled in {filled_s:.1f} s")
    return {
        "lease_p50_ms": lease_ms[len(lease_ms) // 2],
        "lease_p99_ms": lease_ms[len(lease_ms) * 99 // 100],
        "manager_cpu_share": cpu_share,
        "manager_memory_mib": memory_mib,
        "requests_per_minute": float(requests),
        "filled_s": filled_s,
    }


def leases(service: Service, runtime_id: str) -> list[float]:
    """The times of leases of one target, each released at once, in ms."""
    settings = read_settings(service.environ)
    connection = PipelinedConnection(settings.effective_redis_url)
    pool = Pool(connection, "web:benchmark", settings)
    pool.start()
    times = []
    for number in range(_LEASES):
        request = LeaseRequest(
            target="benchmark", runtime_id=runtime_id, function_id="f", project_id="p", execution_id=str(number),
            generations=(), run_s=60, detail="{}",
        )  # fmt: skip
        began = time.perf_counter()
        lease = pool.lease(request, 10)
        times.append(1000 * (time.perf_counter() - began))
        lease.released()
    pool.close()
    return times[10:]


def state(service: Service) -> dict:
    return dict(service.request("GET", "/v1/pool").json())


def warm(service: Service) -> int:
    return sum(runtime["workers"]["warm"] for runtime in state(service)["runtimes"])


def starting(service: Service) -> int:
    return sum(runtime["workers"]["starting"] for runtime in state(service)["runtimes"])


def kubectl(cluster: Cluster, *words: str) -> None:
    subprocess.run(["kubectl", "--kubeconfig", cluster.kubeconfig, *words], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
