"""Runs the tests of `ORCHESTRATOR=kubernetes`: `make test-kubernetes`, or `python -m tests.kubernetes` with arguments.

It starts a cluster with a node and runs pytest in the node's network, where pods have addresses. With `KUBECONFIG`, it
uses that cluster instead; run it in a pod there, or where pods can be reached, and set `KUBERNETES_IMAGE_PREFIX`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kubernetes.clusters import ROOT, running_cluster, why_not

# The tests of this folder one by one, because some stop the API server. Then the behaviour of local workers, on pods.
RUNS: Sequence[Sequence[str]] = (
    ("tests/kubernetes", "-n", "0", "-rs"),
    (
        *(
            f"tests/integration/test_{name}.py"
            for name in (
                "calls", "image_updates", "hostile_functions", "pool_failures", "min_warm", "versions", "standby",
                "asynchronous_executions", "unloadable_packages",
            )
        ),
        "-n", "2", "--dist", "loadfile", "-rs", "--timeout", "300",
    ),
)  # fmt: skip


def main() -> int:
    """Run the tests. Returns the exit status."""
    runs = [sys.argv[1:]] if sys.argv[1:] else RUNS
    if os.environ.get("KUBECONFIG"):
        return _run([], runs, _environ(Path(os.environ["KUBECONFIG"])))
    reason = why_not()
    if reason is not None:
        print(f"The tests of ORCHESTRATOR=kubernetes are skipped: {reason}.")
        return 0
    with running_cluster("node") as cluster:
        environ = _environ(cluster.inner_kubeconfig()) | {
            "KUBERNETES_IMAGE_PREFIX": "localhost/",
            "KUBERNETES_PULL_POLICY": "Never",
            "KUBERNETES_OUTER_CONFIG": str(cluster.kubeconfig),
            "KUBERNETES_OUTER_PID": str(os.getpid()),
            "KUBERNETES_OUTER_NETWORK": f"/proc/{os.getpid()}/ns/net",
            "KUBERNETES_CLUSTER_DIR": str(cluster.folder),
        }
        return _run(cluster.enter(), runs, environ)


def _run(enter: Sequence[str], runs: Sequence[Sequence[str]], environ: dict[str, str]) -> int:
    """Run pytest with each of these arguments. Returns 0, or the first status that is another one."""
    statuses = [
        subprocess.run([*enter, sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=environ).returncode
        for arguments in runs
    ]
    return next((status for status in statuses if status), 0)


def _environ(kubeconfig: Path) -> dict[str, str]:
    return os.environ | {"ORCHESTRATOR": "kubernetes", "KUBERNETES_CONFIG": str(kubeconfig.absolute())}


if __name__ == "__main__":
    sys.exit(main())
