"""Namespaces for tests, and looking at what is in them as a cluster's operator.

A service of a test has the rights in its namespace that config/kubernetes gives an installation, and no others.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

from cryptography.fernet import Fernet
from kubernetes import client, config

from tests.integration.service import wait_until
from tests.kubernetes.access import IN_CLUSTER, Account, new_account


class Namespace:
    """One namespace.

    Args:
        name: its name.
        api: the client of an administrator.
        account: whose rights the service has.

    Attributes:
        core: pods, Secrets and Services.
        apps: Deployments.
    """

    def __init__(self, name: str, api: client.ApiClient, account: Account):
        self.name = name
        self.account = account
        self.core = client.CoreV1Api(api)
        self.apps = client.AppsV1Api(api)
        self._secret_key = Fernet.generate_key().decode()

    def create(self) -> None:
        """Make the namespace with the service's rights, and wait for the account of pods, which a controller makes."""
        self.core.create_namespace({"metadata": {"name": self.name}})
        self.account.grant(self.name)
        wait_until(
            "the namespace has its service account",
            lambda: self.core.list_namespaced_service_account(self.name).items,
        )

    def empty(self) -> None:
        """Delete the pods at once, because a graceful end of them takes seconds."""
        self.apps.delete_collection_namespaced_deployment(self.name)
        self.core.delete_collection_namespaced_pod(self.name, grace_period_seconds=0)

    def delete(self) -> None:
        """Delete the namespace with all that is in it, and wait until it is gone."""
        self.empty()
        self.core.delete_namespace(self.name)

        def is_gone() -> bool:
            found = self.core.list_namespace(field_selector=f"metadata.name={self.name}")
            return not found.items

        wait_until("the namespace is gone", is_gone, 60)

    def settings(self) -> dict[str, Any]:
        """The settings of a service whose workers are in this namespace.

        A node of a test is small, and starts and ends pods slowly. So pods request little, and calls may wait longer
        for a worker than they do by default.
        """
        return {
            "kubernetes_namespace": self.name,
            "kubernetes_config": self.account.kubeconfig,
            "secret_keys": self._secret_key,
            "worker_start_timeout_s": 60,
            "invoke_queue_timeout_s": 30,
            "kubernetes_request_cpu": 10,
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
        roles: names of the shipped Roles that its service gets; none: those of an installation in the cluster.
    """
    api = config.new_client_from_config(os.environ["KUBERNETES_CONFIG"])
    name = f"qf-test-{secrets.token_hex(4)}"
    with new_account(api, name, roles or IN_CLUSTER) as account:
        namespace = Namespace(name, api, account)
        namespace.create()
        try:
            yield namespace
        finally:
            namespace.empty()
            namespace.core.delete_namespace(namespace.name)
    api.close()
