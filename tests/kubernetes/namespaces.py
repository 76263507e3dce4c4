"""Namespaces for tests, and looking at what is in them as a cluster's operator.

A service of a test has the rights in its namespace that config/kubernetes gives an installation, and no others.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from kubernetes import client, config

from tests.integration.service import wait_until
from tests.kubernetes.access import IN_CLUSTER, grant, write_kubeconfig


class Namespace:
    """One namespace.

    Args:
        name: its name.
        api: the client of an administrator.
        kubeconfig: of an account with the rights that an installation gets.

    Attributes:
        core: pods, Secrets and Services.
        apps: Deployments.
    """

    def __init__(self, name: str, api: client.ApiClient, kubeconfig: Path):
        self.name = name
        self.kubeconfig = kubeconfig
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self._secret_key = Fernet.generate_key().decode()

    def settings(self) -> dict[str, Any]:
        """The settings of a service whose workers are in this namespace."""
        return {
            "kubernetes_namespace": self.name,
            "kubernetes_config": self.kubeconfig,
            "secret_keys": self._secret_key,
            "worker_start_timeout_s": 60,
        }

    def pods(self, state: str | None = None) -> list[Any]:
        """The pods that are not being deleted, by the label `qinling-falcon/state`; None: all of them."""
        selector = f"qinling-falcon/state={state}" if state else ""
        pods = self.core.list_namespaced_pod(self.name, label_selector=selector).items
        return [pod for pod in pods if pod.metadata.deletion_timestamp is None]

    def worker_pod(self, worker_id: str) -> str:
        """The name of a worker's pod."""
        selector = f"qinling-falcon/worker={worker_id}"
        [pod] = self.core.list_namespaced_pod(self.name, label_selector=selector).items
        return str(pod.metadata.name)


@contextlib.contextmanager
def new_namespace(*roles: str) -> Iterator[Namespace]:
    """Make a namespace, and delete all that is in it afterwards.

    Args:
        roles: names of the Roles that its service gets; none: those of an installation in the cluster.
    """
    api = config.new_client_from_config(os.environ["KUBERNETES_CONFIG"])
    name = f"qf-test-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="qf-kubeconfig-") as folder:
        namespace = Namespace(name, api, Path(folder) / "kubeconfig")
        namespace.core.create_namespace({"metadata": {"name": name}})
        try:
            # Pods need it, and a controller makes it.
            wait_until(
                "the namespace has its service account",
                lambda: namespace.core.list_namespaced_service_account(name).items,
            )
            write_kubeconfig(api, grant(api, name, roles or IN_CLUSTER), namespace.kubeconfig)
            yield namespace
        finally:
            # Before the namespace, because a graceful end of pods takes seconds.
            namespace.apps.delete_collection_namespaced_deployment(name)
            namespace.core.delete_collection_namespaced_pod(name, grace_period_seconds=0)
            namespace.core.delete_namespace(name)
            api.close()
