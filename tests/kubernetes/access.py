"""Gives a service of a test the rights that config/kubernetes gives an installation, and no others."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from tests.kubernetes.clusters import ROOT

MANIFESTS = ROOT / "config" / "kubernetes"
_ACCOUNT = "qinling-pool"
_TOKEN_LIFE_S = 24 * 3600


def shipped_rules(components: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The rules of the Role that an installation gets, and of the Roles of components."""
    files = [MANIFESTS / "functions" / "access.yaml"]
    files += [MANIFESTS / "components" / component / "access.yaml" for component in components]
    objects = [thing for path in files for thing in yaml.safe_load_all(path.read_text())]
    return [rule for thing in objects if thing["kind"] == "Role" for rule in thing["rules"]]


def shipped_rights(components: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """The same as pairs of a verb and a resource."""
    for rule in shipped_rules(components):
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield verb, resource


def grant(api: client.ApiClient, namespace: str, components: Sequence[str]) -> str:
    """Make an account that has the shipped rights in one namespace.

    Returns:
        Its token.
    """
    core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    metadata = {"name": _ACCOUNT}
    core.create_namespaced_service_account(namespace, {"metadata": metadata})
    rbac.create_namespaced_role(namespace, {"metadata": metadata, "rules": shipped_rules(components)})
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
