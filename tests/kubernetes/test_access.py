"""The shipped Roles: they suffice, and nothing in them is unused.

All tests of this folder run with these Roles (see `namespaces.py`), so they fail if a right is missing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tests.integration.service import running_service, wait_until
from tests.kubernetes.access import shipped_rights
from tests.kubernetes.namespaces import Namespace, new_namespace
from tests.kubernetes.recorder import recording


def test_calls_use_each_right_of_the_pool_manager_and_no_others(tmp_path: Path) -> None:
    copy = tmp_path / "kubeconfig"
    with new_namespace("qinling-pool") as namespace, recording(namespace.account.kubeconfig, copy) as seen:
        settings = namespace.settings() | {"kubernetes_config": copy}
        with running_service(**settings, max_workers=4) as service:
            runtime = service.runtime()
            function = service.function("def main():\n    return 1\n")
            assert service.call(function)["status"] == "success"
            assert service.request("DELETE", f"/v1/functions/{function}").status_code == 204
            assert service.request("DELETE", f"/v1/runtimes/{runtime}").status_code == 204
            wait_until("the pods of the deleted runtime are gone", lambda: not namespace.pods(), timeout_s=90)

    assert seen.rights == shipped_rights("qinling-pool")
    assert seen.refused == []


def test_a_service_has_no_rights_elsewhere(namespace: Namespace) -> None:
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
