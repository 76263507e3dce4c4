"""Gives a service of a test the rights that config/kubernetes gives an installation, and no others."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
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

_ACCOUNT = "qinling-pool"
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


def grant(api: client.ApiClient, namespace: str, roles: Sequence[str]) -> str:
    """Make an account that has the rights of some shipped Roles in one namespace.

    Returns:
        Its token.
    """
    core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    metadata = {"name": _ACCOUNT}
    core.create_namespaced_service_account(namespace, {"metadata": metadata})
    rbac.create_namespaced_role(namespace, {"metadata": metadata, "rules": shipped_rules(roles)})
    rbac.create_namespaced_role_binding(
        namespace,
        {
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": _ACCOUNT, "namespace": namespace}],
        },
    )
    wanted = {"spec": {"audiences": [], "expirationSeconds": _TOKEN_LIFE_S}}
    answer = core.create_namespaced_service_account_token(_ACCOUNT, namespace, wanted, _preload_content=False)
    return str(json.loads(answer.read())["status"]["token"])


def write_kubeconfig(api: client.ApiClient, token: str, path: Path) -> None:
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
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": _ACCOUNT}}],
        "users": [{"name": _ACCOUNT, "user": {"token": token}}],
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(config, file)
