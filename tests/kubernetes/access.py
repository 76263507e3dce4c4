"""Gives a service of a test the rights that config/kubernetes gives an installation, and no others."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from tests.kubernetes.clusters import ROOT

MANIFESTS = ROOT / "config" / "kubernetes"
Right = tuple[str, str]
"""A verb and a resource, as a Role names them."""
IN_CLUSTER = ("qinling-pool", "qinling-images")
"""The Roles of an installation in the cluster."""
OUTSIDE = {access: (*IN_CLUSTER, f"qinling-{access}") for access in ("node-port", "api-proxy")}
"""The Roles of an installation outside of it, by its KUBERNETES_WORKER_ACCESS."""

_HOME = "default"
_TOKEN_LIFE_S = 24 * 3600


def shipped_rules(roles: Sequence[str]) -> list[dict[str, Any]]:
    """The rules of the shipped Roles with these names."""
    files = sorted(MANIFESTS.rglob("*.yaml"))
    objects = [thing for path in files for thing in yaml.safe_load_all(path.read_text())]
    shipped = {thing["metadata"]["name"]: thing["rules"] for thing in objects if thing["kind"] == "Role"}
    return [rule for role in roles for rule in shipped[role]]


def shipped_rights(*roles: str) -> set[Right]:
    """The rights that the shipped Roles with these names give."""
    rules = shipped_rules(roles)
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


class Account:
    """An account of the cluster, as which a service of a test calls the API server.

    Args:
        api: the client of an administrator.
        name: its name.
        roles: the names of the shipped Roles that it gets.
        kubeconfig: where its kubeconfig file is.
    """

    def __init__(self, api: client.ApiClient, name: str, roles: Sequence[str], kubeconfig: Path):
        self.name = name
        self.kubeconfig = kubeconfig
        self._rbac = client.RbacAuthorizationV1Api(api)
        self._rules = shipped_rules(roles)

    def grant(self, namespace: str) -> None:
        """Give it its rights in a namespace. They go with the namespace."""
        metadata = {"name": self.name}
        self._rbac.create_namespaced_role(namespace, {"metadata": metadata, "rules": self._rules})
        self._rbac.create_namespaced_role_binding(
            namespace,
            {
                "metadata": metadata,
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.name},
                "subjects": [{"kind": "ServiceAccount", "name": self.name, "namespace": _HOME}],
            },
        )


@contextlib.contextmanager
def new_account(api: client.ApiClient, name: str, roles: Sequence[str]) -> Iterator[Account]:
    """Make an account without rights, and delete it afterwards.

    It is in the namespace `default`, so that its token outlives the namespace of the workers.
    """
    core = client.CoreV1Api(api)
    core.create_namespaced_service_account(_HOME, {"metadata": {"name": name}})
    try:
        wanted = {"spec": {"audiences": [], "expirationSeconds": _TOKEN_LIFE_S}}
        answer = core.create_namespaced_service_account_token(name, _HOME, wanted, _preload_content=False)
        with tempfile.TemporaryDirectory(prefix="qf-kubeconfig-") as folder:
            kubeconfig = Path(folder) / "kubeconfig"
            _write_kubeconfig(api, json.loads(answer.read())["status"]["token"], kubeconfig)
            yield Account(api, name, roles, kubeconfig)
    finally:
        core.delete_namespaced_service_account(name, _HOME)


def _write_kubeconfig(api: client.ApiClient, token: str, path: Path) -> None:
    """Write a kubeconfig file for the cluster of `api` and a token."""
    cluster: dict[str, Any] = {"server": api.configuration.host}
    if api.configuration.ssl_ca_cert:
        authorities = Path(api.configuration.ssl_ca_cert).read_bytes()
        cluster["certificate-authority-data"] = base64.b64encode(authorities).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "service"}}],
        "users": [{"name": "service", "user": {"token": token}}],
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file)
