"""The shipped Roles: they suffice, and nothing in them is unused.

All tests of this folder run with these Roles (see `namespaces.py`), so they fail if a right is missing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.service import running_service, wait_until
from tests.kubernetes.access import new_account, shipped_rights
from tests.kubernetes.namespaces import Namespace, new_namespace
from tests.kubernetes.recorder import recording

IMAGE = os.environ.get("KUBERNETES_TEST_IMAGE", "localhost/python:3.11")
# Sent only if an answer of the API server was lost, or a pod was lost while it became a worker.
SELDOM_USED = {("get", "pods"), ("delete", "services")}
ROLES = {
    "pod": ("qinling-pool",),
    "node-port": ("qinling-pool", "qinling-node-port"),
    "api-proxy": ("qinling-pool", "qinling-api-proxy"),
}


@pytest.mark.parametrize("access", ROLES)
def test_calls_use_each_right_and_no_others(access: str, tmp_path: Path) -> None:
    roles, copy = ROLES[access], tmp_path / "kubeconfig"
    with new_namespace(*roles) as namespace, recording(namespace.account.kubeconfig, copy) as seen:
        settings = namespace.settings() | {"kubernetes_config": copy, "kubernetes_worker_access": access}
        with running_service(**settings, max_workers=4) as service:
            runtime = service.runtime()
            function = service.function("def main():\n    return 1\n")
            assert service.call(function)["status"] == "success"
            assert service.request("DELETE", f"/v1/functions/{function}").status_code == 204
            assert service.request("DELETE", f"/v1/runtimes/{runtime}").status_code == 204
            wait_until("the pods of the deleted runtime are gone", lambda: not namespace.pods(), timeout_s=90)

    assert seen.refused == []
    assert seen.rights <= shipped_rights(*roles)
    assert shipped_rights(*roles) - seen.rights <= SELDOM_USED


def test_functions_from_images_use_each_right_of_web_and_no_others(tmp_path: Path) -> None:
    copy = tmp_path / "kubeconfig"
    with (
        new_namespace("qinling-pool") as namespace,
        new_account(namespace.core.api_client, f"{namespace.name}-web", ["qinling-images"]) as account,
        recording(account.kubeconfig, copy) as seen,
        running_service(**namespace.settings(), max_workers=4) as service,
    ):
        account.grant(namespace.name)
        service.stop("web")
        service.environ["KUBERNETES_CONFIG"] = str(copy)
        service.start_web()
        wait_until("the service is ready", lambda: service.request("GET", "/readyz").status_code == 200)
        body = {"name": "f", "code": {"source": "image", "image": IMAGE}, "timeout": 5}
        function = service.request("POST", "/v1/functions", json=body).json()["id"]

        ended = service.call(function, json.dumps(["python3", "-c", "print('it ran')"]))
        too_long = service.call(function, json.dumps(["python3", "-c", "import time; time.sleep(600)"]))

        assert ended["status"] == "success", ended
        assert "it ran" in service.log_of(ended)
        assert too_long["status"] != "success"

    assert seen.refused == []
    assert seen.rights <= shipped_rights("qinling-images")
    assert shipped_rights("qinling-images") - seen.rights <= SELDOM_USED


def test_a_service_has_no_rights_in_other_namespaces_and_reads_no_secrets_and_nodes(namespace: Namespace) -> None:
    with config.new_client_from_config(str(namespace.account.kubeconfig)) as api:
        core = client.CoreV1Api(api)
        assert core.list_namespaced_pod(namespace.name).items is not None
        for forbidden in (
            lambda: core.list_namespaced_pod("default"),
            lambda: core.list_namespaced_secret(namespace.name),
            lambda: core.list_node(),
        ):
            with pytest.raises(ApiException) as refused:
                forbidden()
            assert refused.value.status == 403
