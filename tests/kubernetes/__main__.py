"""Runs the tests of `ORCHESTRATOR=kubernetes`: `make test-kubernetes`, or `python -m tests.kubernetes` with arguments.

It starts a cluster with a node and runs pytest in the node's network, where pods have addresses. With `KUBECONFIG`, it
uses that cluster instead; run it in a pod there, or where pods can be reached, and set `KUBERNETES_IMAGE_PREFIX`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kubernetes.clusters import ROOT, running_cluster, why_not


def main() -> int:
    """Run the tests. Returns the exit status."""
    pytest = [sys.executable, "-m", "pytest", *(sys.argv[1:] or ["tests/kubernetes", "-n", "0"])]
    if os.environ.get("KUBECONFIG"):
        return subprocess.run(pytest, cwd=ROOT, env=_environ(Path(os.environ["KUBECONFIG"]))).returncode
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
        return subprocess.run([*cluster.enter(), *pytest], cwd=ROOT, env=environ).returncode


def _environ(kubeconfig: Path) -> dict[str, str]:
    return os.environ | {"ORCHESTRATOR": "kubernetes", "KUBERNETES_CONFIG": str(kubeconfig.absolute())}


if __name__ == "__main__":
    sys.exit(main())
